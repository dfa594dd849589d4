"""Actions of the supervisor: stop what is left of an attempt, note its end, start the next one.

Each action is fenced: it asks whether the lease is still held, and refuses an attempt that is not
the run's newest. Stopping and starting hold the run's start lock as `launch` and `kill` do.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soractl.diagnosis import node_facts
from soractl.diagnosis.node_facts import NodeFacts
from soractl.diagnosis.signatures import CauseKind
from soractl.errors import SoractlError
from soractl.launch import preflight
from soractl.launch import start as launcher
from soractl.launch.prepare import LaunchOptions, Prepared, on_nodes, prepare_restart
from soractl.processes.selection import Selection
from soractl.processes.stop import StopResult, stop
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, read_hostfile
from soractl.runs.find import last_attempt
from soractl.runs.node_states import read_states
from soractl.runs.post_mortem import Failure, Outcome, first_failure
from soractl.runs.record import AttemptRecord, read_record, start_step
from soractl.runs.start_lock import start_lock
from soractl.supervise.decide import Cause, PastAttempt
from soractl.supervise.lease import Lease, LeaseLostError
from soractl.supervise.observe import Verdict
from soractl.supervise.states import State
from trainer.atomic_files import RunDirError, folder_time, read_json, write_json
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import ConfigError

UNUSABLE = (SoractlError, ConfigError, RunDirError)  # settings or records, changed meanwhile
GRACE_S = 2.0  # ranks of a failed attempt cannot save: that takes all of them
GAVE_UP = "gave up"


@dataclass(frozen=True)
class Actor:
    """Everything that acts for one run, behind its fence."""

    run: RunDir
    lease: Lease
    remote: Connections

    def nodes(self) -> tuple[Node, ...]:
        """The nodes that the run should have, and its spares."""
        return nodes_of(self.run)

    def fence(self, attempt: AttemptDir) -> None:
        """LeaseLostError unless this process may act, and on this attempt."""
        self.lease.check()
        newest = last_attempt(self.run)
        if newest is not None and newest.number != attempt.number:
            raise LeaseLostError(f"attempt {newest.number} has begun since")

    def clear(self, attempt: AttemptDir, nodes: Sequence[Node]) -> list[StopResult]:
        """End what is left of the run on these nodes, verified; who does not answer is a fault."""
        self.fence(attempt)
        which = Selection(run_id=read_record(attempt).run_id)
        with start_lock(self.run):
            return stop(nodes, self.remote, which, grace_s=GRACE_S)

    def clear_and_ask(
        self, attempt: AttemptDir, nodes: Sequence[Node]
    ) -> tuple[list[StopResult], list[NodeFacts]]:
        """The same, while the attempt's nodes are asked for what may explain its end."""
        record = read_record(attempt)
        with ThreadPoolExecutor(1, "facts") as pool:
            asking = pool.submit(node_facts.ask, record.nodes, self.run.path, self.remote)
            return self.clear(attempt, nodes), asking.result()

    def settle(self, attempt: AttemptDir, failure: Failure | None, exit_code: int) -> None:
        """Note how an attempt ended, unless a follower already has."""
        if not attempt.exit.exists():
            write_json(
                attempt.exit, Outcome(exit_code, folder_time(attempt.path), failure).as_json()
            )

    def unfit_spares(self) -> dict[str, str]:
        """Reasons for which waiting spares cannot join the attempt that runs, by their names."""
        attempt = last_attempt(self.run)
        running = read_record(attempt).nodes if attempt else ()
        names = {node.name for node in running}
        waiting = [node for node in self.nodes() if node.spare and node.name not in names]
        if not waiting or not running:
            return {}
        plan = self._prepared([running[0], *waiting], None).plan
        return preflight.unfit_to_join(plan, self.remote)

    def restart(self, attempt: AttemptDir, nodes: Sequence[Node], start: str | None) -> AttemptDir:
        """Start the next attempt on these nodes, from the newest complete checkpoint or `start`."""
        self.fence(attempt)
        prepared = self._prepared(nodes, start)
        preflight.check(prepared, self.remote)
        self.fence(attempt)
        return launcher.launch(prepared, ["soractl", "supervise"], self.remote).attempt

    def _prepared(self, nodes: Sequence[Node], start: str | None) -> Prepared:
        root = str(self.run.path.parent)
        options = LaunchOptions(runs=root, hostfile=hostfile_of(self.run), init_from=start)
        return on_nodes(prepare_restart(self.run, options, os.environ), nodes)


def failure_of(verdict: Verdict, attempt: AttemptDir, record: AttemptRecord) -> Failure:
    """The first failure of an attempt, read before anything is stopped."""
    head = record.nodes[0].name
    if verdict.state is not State.CRASHED:
        return Failure(verdict.node or head, verdict.reason)
    states = read_states(attempt, record.nodes)
    if "killed by" not in verdict.reason and attempt.rank_failures():
        return first_failure(attempt, record, states, {})
    rank, _, words = verdict.reason.partition(": ")
    if rank.startswith("rank ") and words:
        return Failure(verdict.node or head, words, rank=int(rank.removeprefix("rank ")))
    return first_failure(attempt, record, states, {})


def nodes_of(run: RunDir) -> tuple[Node, ...]:
    """The nodes that a run should have, and its spares: of its host file, else of its launch."""
    if hostfile := hostfile_of(run):
        return tuple(read_hostfile(Path(hostfile)))
    return read_record(run.attempts()[0]).nodes


def hostfile_of(run: RunDir) -> str | None:
    """The host file that the run was launched with, if it is still there."""
    named = read_json(run.run_json).get("hostfile")
    return str(named) if named and Path(str(named)).is_file() else None


def note_verdict(attempt: AttemptDir, past: PastAttempt, decision: str) -> None:
    """Keep what was decided about an attempt, for the supervisors that come later."""
    cause = vars(past.cause)
    values: dict[str, Any] = {**vars(past), "cause": cause, "decision": decision}
    write_json(attempt.decision, values)


def past_attempts(run: RunDir, before: AttemptDir) -> list[PastAttempt]:
    """The supervised failures before an attempt, since a person last started the run."""
    found: list[PastAttempt] = []
    earlier = [attempt for attempt in run.attempts() if attempt.number < before.number]
    for attempt in reversed(earlier):
        try:
            values = read_json(attempt.decision)
        except (OSError, RunDirError):
            break
        if values.pop("decision") == GAVE_UP:  # whoever resumed it since has changed something
            break
        cause = values.pop("cause")
        kind = CauseKind(cause.pop("kind"))
        found.append(PastAttempt(cause=Cause(kind=kind, **cause), **values))
    return found[::-1]


def new_past(run: RunDir, attempt: AttemptDir, cause: Cause, step: int | None) -> PastAttempt:
    """An attempt that has just failed, as decisions see it."""
    newest = max((found.manifest.global_step for found in run.checkpoints()), default=0)
    return PastAttempt(
        number=attempt.number,
        started_unix_s=read_record(attempt).started_unix_s,
        ended_unix_s=folder_time(attempt.path),
        cause=cause,
        step=step,
        new_checkpoint=newest > start_step(attempt),
    )


def unusable_nodes(stopped: Sequence[StopResult]) -> dict[str, str]:
    """Nodes that nothing can be started on now, and why."""
    return {
        result.node.name: str(result.fault or "processes of the last attempt are still there")
        for result in stopped
        if not result.ok
    }
