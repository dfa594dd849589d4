"""State of a run, from its files and, as long as it may run, from its nodes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from soractl.errors import ExitCode
from soractl.remote.requests import Remote
from soractl.runs.find import last_attempt, stage_of
from soractl.runs.lost_nodes import lost_nodes
from soractl.runs.node_states import NodeState, ask_states, read_states
from soractl.runs.post_mortem import Failure, Outcome, read_outcome, settle
from soractl.runs.progress import Progress, ProgressReader
from soractl.runs.record import read_record
from soractl.runs.start_lock import is_starting
from trainer.run_dir import RunDir

State = Literal["never started", "starting", "running", "ended", "failed", "stopped", "unknown"]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run and its newest attempt."""

    run: RunDir
    stage: str
    state: State
    attempt: int | None = None
    nodes: tuple[NodeState, ...] = ()
    progress: Progress | None = None
    first_failure: Failure | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "run": self.run.name,
            "stage": self.stage,
            "state": self.state,
            "attempt": self.attempt,
            "progress": {**asdict(self.progress), "eta_s": self.progress.eta_s}
            if self.progress
            else None,
            "checkpoints": [checkpoint.name for checkpoint in self.run.checkpoints()],
            "incomplete": {path.name: why for path, why in self.run.incomplete().items()},
            "nodes": [node.as_json() for node in self.nodes],
            "first_failure": asdict(self.first_failure) if self.first_failure else None,
        }


def read_status(run: RunDir, remote: Remote) -> RunStatus:
    """The truth also for a run that nobody follows."""
    attempt = last_attempt(run)
    if attempt is None:
        return RunStatus(run=run, stage=stage_of(run), state="never started")
    record = read_record(attempt)
    nodes = read_states(attempt, record.nodes)
    outcome = read_outcome(attempt)
    if outcome is None and any(node.exit_code != 0 for node in nodes):
        nodes = ask_states(attempt, record, remote)
    head_log = attempt.node_log(record.nodes[0].name)
    head = nodes[0]
    progress = ProgressReader(run, head_log, attempt.number).look(head.clock_unix_s, head.age_s)
    lost = lost_nodes(nodes, {}, 0.0, 0.0)
    may_run = any(node.may_run for node in nodes if node.node not in lost)
    if outcome is None and not may_run and not is_starting(run):
        outcome = settle(attempt, record, nodes, lost)
    return RunStatus(
        run=run,
        stage=stage_of(run),
        state=_state(run, nodes, outcome),
        attempt=attempt.number,
        nodes=tuple(nodes),
        progress=progress,
        first_failure=outcome.first_failure if outcome else None,
    )


def _state(run: RunDir, nodes: Sequence[NodeState], outcome: Outcome | None) -> State:
    if outcome:
        words: dict[int, State] = {ExitCode.OK: "ended", ExitCode.TERMINATED: "stopped"}
        return words.get(outcome.exit_code, "failed")
    if any(node.processes for node in nodes):
        return "running"
    return "starting" if is_starting(run) else "unknown"
