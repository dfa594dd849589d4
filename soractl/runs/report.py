"""What `status` says."""

from soractl.runs.post_mortem import Failure
from soractl.runs.progress import Progress
from soractl.runs.status import RunStatus
from soractl.terminal import text
from trainer.run_dir import RunDir

TRACEBACK_LINES = 25


def lines(status: RunStatus) -> list[str]:
    """A run in a few lines; how it failed, if it did."""
    rows = [("run", text.path(status.run.path)), ("stage", status.stage)]
    if status.attempt is not None:
        nodes = text.count(len(status.nodes), "node")
        rows.append(("state", f"{status.state} (attempt {status.attempt} on {nodes})"))
    else:
        rows.append(("state", status.state))
    if status.progress:
        rows += _progress(status.progress, status.state)
    rows.append(("saved", checkpoints(status.run)))
    unsettled = status.state in ("running", "unknown")
    odd = [node for node in status.nodes if unsettled and (node.fault or node.exit_code)]
    for node in odd:
        rows.append((node.node, str(node.fault or f"ended with exit code {node.exit_code}")))
    shown = text.pairs(rows)
    if failure := status.first_failure:
        why = f"stopped by {failure.error}" if failure.stopped else f"failure: {culprit(failure)}"
        shown += [why, *failure_details(failure)]
    return shown


def checkpoints(run: RunDir) -> str:
    """How many there are, and the newest."""
    complete = run.checkpoints()
    newest = f", the newest: {text.path(complete[-1].path)}" if complete else ""
    return f"{text.count(len(complete), 'complete checkpoint')}{newest}"


def culprit(failure: Failure) -> str:
    """Where it failed, and how."""
    rank = f"rank {failure.rank} on " if failure.rank is not None else ""
    return f"{rank}{failure.node}: {failure.error}"


def failure_details(failure: Failure) -> list[str]:
    """The rank's traceback, and the last lines of its node's log."""
    lines = [f"  {line}" for line in (failure.traceback or "").splitlines()[-TRACEBACK_LINES:]]
    if failure.log_tail and not failure.traceback:
        lines += [f"last lines of {failure.node}.log:", *(f"  {line}" for line in failure.log_tail)]
    return lines


def _progress(progress: Progress, state: str) -> list[tuple[str, str]]:
    rows = []
    if progress.global_step is not None or state in ("starting", "running"):
        rows.append(("at", progress.one_line(running=state in ("starting", "running"))))
    if progress.heartbeat_age_s is not None:
        rows.append(("last step", f"{text.duration(progress.heartbeat_age_s)} ago"))
    if progress.loss is not None and progress.first_loss is not None:
        rows.append(("loss", f"{progress.first_loss:.4f} at first, {progress.loss:.4f} now"))
    return rows
