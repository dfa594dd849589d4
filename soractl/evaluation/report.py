"""Results of sampling and of evaluation as lines and JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.evaluation.evaluate import Evaluated
from soractl.evaluation.sample import Sampled
from soractl.terminal import text


def sampled_lines(result: Sampled) -> list[str]:
    """A line a video, then where they are and what is missing."""
    reasons = {one.task["file"]: one.reason for one in result.failed}
    seconds = {one.task["file"]: one.seconds for one in result.made}
    lines = []
    for task in result.tasks:
        file = task["file"]
        end = f"failed: {reasons[file]}" if file in reasons else _end(seconds.get(file))
        lines.append(f"{file}  {end}")
    lines += [f"contact sheet: {sheet}" for sheet in result.contact_sheets]
    made = len(result.made) - len(result.failed)
    counts = f"{text.count(made, 'video')} made, {len(result.failed)} failed, "
    before = len(result.tasks) - len(result.made)
    return [*lines, f"{counts}{before} there before, in {text.duration(result.seconds)}"]


def sampled_json(result: Sampled) -> dict[str, Any]:
    """The same for programs."""
    made = {one.task["file"]: one for one in result.made}
    return {
        "elapsed_s": round(result.seconds, 3),
        "contact_sheets": list(result.contact_sheets),
        "videos": [_video(task, made) for task in result.tasks],
    }


def evaluated_line(end: Evaluated, *, once: bool = False) -> str:
    """One checkpoint's end; with `once` there is no other try."""
    if not end.reason:
        videos, time = text.count(end.videos, "video"), text.duration(end.seconds)
        alarms = "".join(f"  ALARM {alarm}" for alarm in end.published.alarms)
        faults = "".join(f"  {fault}" for fault in end.published.faults)
        return f"{end.item}  {videos} in {time}  {end.item.folder}{alarms}{faults}"
    more = f"{text.count(end.tries_left, 'try', 'tries')} left, next in {text.duration(end.wait_s)}"
    again = more if end.tries_left and not once else "not tried again"
    return f"{end.item}  failed, {again}: {end.reason}"


def evaluated_json(ends: Sequence[Evaluated]) -> dict[str, Any]:
    """All checkpoints of a round for programs."""
    return {
        "checkpoints": [
            {
                "run": end.item.run.name,
                "preset": end.item.preset,
                "global_step": end.item.checkpoint.manifest.global_step,
                "folder": str(end.item.folder),
                "videos": end.videos,
                "elapsed_s": round(end.seconds, 3),
                "alarms": [alarm.as_json() for alarm in end.published.alarms],
                "faults": list(end.published.faults),
                "error": end.reason or None,
            }
            for end in ends
        ]
    }


def evaluated_summary(ends: Sequence[Evaluated]) -> str:
    """Number of checkpoints that got videos."""
    if not ends:
        return "no new checkpoint"
    failed = sum(bool(end.reason) for end in ends)
    return f"{text.count(len(ends) - failed, 'checkpoint')} sampled, {failed} failed"


def full_disk(ends: Sequence[Evaluated]) -> SoractlError | None:
    """The one error of all checkpoints that were not sampled since a disk was full; exit code 5."""
    full = [end for end in ends if end.disk_full]
    if not full:
        return None
    named = ", ".join(dict.fromkeys(str(end.item) for end in full))
    return SoractlError(
        f"not sampled: {named}: {full[0].reason}",
        hint="make room there, then type the same command again",
        exit_code=ExitCode.REFUSED,
    )


def evaluated_exit_code(ends: Sequence[Evaluated]) -> ExitCode:
    """1 if no checkpoint could be sampled, 3 if some could not, 5 if a disk was full.

    A later try that works mends it.
    """
    lost = {end.item.key for end in ends if end.reason}
    made = {end.item.key for end in ends if not end.reason}
    if any(end.disk_full for end in ends if end.item.key not in made):
        return ExitCode.REFUSED
    if not lost - made:
        return ExitCode.OK
    return ExitCode.SOME_FAILED if made else ExitCode.FAILED


def _video(task: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    one = made.get(task["file"])
    return {
        "file": task["file"],
        "manifest": str(Path(task["file"]).with_suffix(".json")),
        "prompt": task["text"],
        "seed": task["seed"],
        "sample": task["sample"],
        "elapsed_s": round(one.seconds, 3) if one and not one.reason else None,
        "error": one.reason or None if one else None,
    }


def _end(seconds: float | None) -> str:
    return "there before" if seconds is None else text.duration(seconds)
