"""Results of one checkpoint as `eval` leaves them: its videos with their measures, its alarms."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soractl.evaluation.alarms import Alarm
from soractl.evaluation.find_new import Item
from trainer.atomic_files import RunDirError, read_json

SCHEMA_VERSION = 1

Video = dict[str, Any]


def result_of(
    item: Item,
    videos: Sequence[Video],
    *,
    weights: str,
    alarms: Sequence[Alarm] = (),
    metrics: Mapping[str, Any] | None = None,
    is_whole: bool = True,
) -> dict[str, Any]:
    """The contents of `result.json`, or of `progress.json` while videos are missing."""
    manifest = item.checkpoint.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "run": item.run.name,
        "preset": item.preset,
        "global_step": manifest.global_step,
        "epoch": manifest.epoch,
        "checkpoint": item.checkpoint.name,
        "digest": item.digest,
        "weights": weights,
        "is_whole": is_whole,
        "videos": list(videos),
        "metrics": dict(metrics or {}),
        "alarms": [alarm.as_json() for alarm in alarms],
        "made_unix_s": time.time(),
    }


def video_of(task: Mapping[str, Any]) -> Video:
    """A video by its name in the result's folder, with what its own manifest says of its frames."""
    file = Path(task["file"])
    try:
        manifest = read_json(file.with_suffix(".json"))
    except (OSError, RunDirError):  # written a moment ago; the video counts without it
        manifest = {}
    return {
        "name": file.name,
        "prompt": task["text"],
        **{key: task[key] for key in ("seed", "height", "width")},
        **{key: manifest.get(key) for key in ("poster", "measures")},
    }
