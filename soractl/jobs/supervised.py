"""A run that is supervised inside its job: spares of the allocation stand in for lost nodes.

The supervisor is that of bare metal. It runs in the batch shell, so it outlives the login node,
reaches the job's nodes by ssh, and starts attempts by `srun`. Slurm leaves the job its other nodes
when one is lost (`--no-kill`), and the step on these goes on.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.jobs.attempts import copy_for
from soractl.jobs.signals import Signals
from soractl.jobs.step import Step
from soractl.launch import preflight, start_point
from soractl.launch.prepare import Prepared, prepare_in_job
from soractl.launch.start import write_attempt
from soractl.processes.stop import StopResult
from soractl.queue import record
from soractl.queue.interface import Allocation
from soractl.remote.nodes import Node
from soractl.runs.events import EventKind, EventLog
from soractl.supervise.act import Actor
from soractl.supervise.lease import LeaseLostError
from soractl.supervise.process import cluster_of, hooks_of, notifier_of
from soractl.supervise.supervisor import Supervisor
from soractl.terminal import output
from trainer.atomic_files import RunDirError
from trainer.run_dir import AttemptDir
from trainer.settings import ConfigError


@dataclass(frozen=True)
class JobActor(Actor):
    """Actions of the supervisor inside a job."""

    given: Allocation
    spares: int
    signals: Signals
    steps: list[Step] = field(default_factory=list)  # the one that runs

    def nodes(self) -> tuple[Node, ...]:
        """The job's nodes, the last ones as spares."""
        count = len(self.given.nodes) - self.spares
        held = (replace(node, spare=True) for node in self.given.nodes[count:])
        return (*self.given.nodes[:count], *held)

    def fence(self, attempt: AttemptDir) -> None:
        """LeaseLostError, also once a signal wants the end."""
        if self.signals.seen:
            raise LeaseLostError("the job is to end")
        super().fence(attempt)

    def start(self, attempt: AttemptDir) -> None:
        """Run the scripts of an attempt's nodes."""
        self.steps[:] = [Step(attempt, str(self.run.path))]

    def end_step(self) -> None:
        """End what `srun` still runs."""
        for step in self.steps:
            step.end()

    def clear(self, attempt: AttemptDir, nodes: Sequence[Node]) -> list[StopResult]:
        """End the step, then what is left of the run on these nodes."""
        self.fence(attempt)
        self.end_step()
        return super().clear(attempt, nodes)

    def restart(self, attempt: AttemptDir, nodes: Sequence[Node], start: str | None) -> AttemptDir:
        """Start the next attempt on these nodes of the job."""
        self.fence(attempt)
        prepared = self._prepared(nodes, start)
        preflight.check(prepared, self.remote)
        self.fence(attempt)
        before = record.read_record(attempt)
        assert before is not None
        following = copy_for(self.run, attempt)
        record.write_record(following, replace(before, then="queued", start=None))
        record.note_end(attempt, "restarted")
        write_attempt(prepared, self.run, following)
        self.start(following)
        kind = prepared.plan.start.kind.replace("_", " ")
        text = f"{kind} on {', '.join(node.name for node in nodes)}"
        EventLog(self.run, "slurm").write(EventKind.STARTED, attempt=following.number, text=text)
        return following

    def _prepared(self, nodes: Sequence[Node], start: str | None) -> Prepared:
        point = (
            start_point.from_checkpoint(Path(start)) if start else start_point.for_restart(self.run)
        )
        chosen = replace(self.given, nodes=tuple(replace(node, spare=False) for node in nodes))
        return prepare_in_job(self.run, chosen, self.run.attempts()[-1], point, os.environ)


def supervise(actor: JobActor) -> int | None:
    """Supervise until the run ends: 0, 93, or its exit code; None where a signal ended it."""
    try:
        return _supervise(actor)
    except LeaseLostError:
        return None
    except SoractlError as error:
        output.error(error)
        return error.exit_code
    except (ConfigError, RunDirError) as error:
        output.error(SoractlError(str(error)))
        return ExitCode.BAD_REQUEST
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        output.error(SoractlError(f"the disk is full: {error.filename}"))
        return ExitCode.GAVE_UP
    finally:
        if actor.signals.terminated_at is None:
            actor.end_step()


def _supervise(actor: JobActor) -> int:
    cluster = cluster_of(actor.run)
    notifier = notifier_of(actor.run, actor.remote, cluster)
    hooks = hooks_of(actor.run, actor.remote, notifier)
    try:
        return Supervisor(actor, cluster, hooks=hooks).run()
    finally:
        notifier.finish()
