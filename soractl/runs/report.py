"""What `status` says."""

from soractl.launch.report import checkpoints, culprit, failure_details
from soractl.runs.progress import Progress, one_line
from soractl.runs.status import RunStatus
from soractl.terminal import text


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
    odd = [node for node in status.nodes if unsettled and (node.error or node.exit_code)]
    rows += [(node.node, node.error or f"ended with exit code {node.exit_code}") for node in odd]
    shown = text.pairs(rows)
    if failure := status.first_failure:
        why = f"stopped by {failure.error}" if failure.stopped else f"failure: {culprit(failure)}"
        shown += [why, *failure_details(failure)]
    return shown


def _progress(progress: Progress, state: str) -> list[tuple[str, str]]:
    rows = []
    if progress.global_step is not None or state in ("starting", "running"):
        rows.append(("at", one_line(progress, running=state in ("starting", "running"))))
    if progress.heartbeat_age_s is not None:
        rows.append(("last step", f"{text.duration(progress.heartbeat_age_s)} ago"))
    if progress.loss is not None and progress.first_loss is not None:
        rows.append(("loss", f"{progress.first_loss:.4f} at first, {progress.loss:.4f} now"))
    return rows
