"""Results of sampling as lines and JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
