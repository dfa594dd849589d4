"""The gallery: what was sampled of runs, as data for the page that shows it."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from soractl.gallery.means import mean_of, paired_difference
from soractl.runs.events import metrics_rows
from trainer.atomic_files import RunDirError, read_json
from trainer.checkpoint_dir import DRAFT
from trainer.run_dir import RunDir

SCHEMA_VERSION = 1
MEASURES = ("motion", "flicker", "sharpness", "saturation")
LOSSES = ("loss", "validation_loss")
MOST_LOSSES = 500  # points of a curve

Result = Mapping[str, Any]
Row = tuple[str, str, int]  # file without its kind, prompt, seed: what columns share


def gallery_of(runs: Sequence[RunDir], folder_of: Mapping[RunDir, str]) -> dict[str, Any]:
    """All that the page shows, as JSON; `folder_of` a run is its `eval/` as the page links to it.

    Results that cannot be read are left out.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "made_unix_s": time.time(),
        "measures": MEASURES,
        "runs": [_run(run, folder_of[run]) for run in runs],
    }


def write_gallery(runs: Sequence[RunDir]) -> Path:
    """The page and its data in the first run's `eval/`, each replaced whole; the page's path."""
    first = runs[0]
    first.evaluations.mkdir(exist_ok=True)
    folders = {
        run: Path(os.path.relpath(run.evaluations, first.evaluations)).as_posix() for run in runs
    }
    _replace(first.gallery_data, script(gallery_of(runs, folders)))
    _replace(first.gallery, page())
    return first.gallery


def page() -> str:
    """The page: one file with its own style and program."""
    return files(__package__).joinpath("page.html").read_text()


def script(gallery: Mapping[str, Any]) -> str:
    """The data as a program that hands it to the page; plain ASCII."""
    return f"showGallery({json.dumps(gallery, separators=(',', ':'))});\n"


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    draft.write_text(text)
    draft.replace(path)


def _run(run: RunDir, folder: str) -> dict[str, Any]:
    rows = {int(row["global_step"]): row for row in metrics_rows(run)}
    presets: dict[str, list[tuple[Path, Result]]] = {}
    for path, result in _results(run):
        presets.setdefault(path.parts[-3], []).append((path, result))
    return {
        "name": run.name,
        "folder": folder,
        "losses": {name: _curve(rows, name) for name in LOSSES},
        "presets": {name: _preset(found, rows) for name, found in presets.items()},
    }


def _results(run: RunDir) -> Iterator[tuple[Path, Result]]:
    """Results by preset and step, also of checkpoints whose videos are still being made.

    Those that cannot be read are left out.
    """
    for path in run.evaluations_begun():
        with suppress(OSError, RunDirError):
            yield path, read_json(path)


def _curve(rows: Mapping[int, Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    points = [(step, float(rows[step][name])) for step in sorted(rows) if name in rows[step]]
    return points[:: 1 + len(points) // MOST_LOSSES]


def _preset(
    found: Sequence[tuple[Path, Result]], rows: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Prompts in the order in which they first came, and for each checkpoint a video a prompt."""
    prompts: dict[Row, dict[str, Any]] = {}
    for _, result in found:
        for video in result["videos"]:
            prompts.setdefault(_row(video), _prompt(video))
    columns = []
    before: Mapping[Row, Mapping[str, Any]] = {}
    for path, result in found:
        videos = {_row(video): video for video in result["videos"]}
        columns.append(_column(path, result, videos, list(prompts), rows))
        columns[-1]["means"] = _means(list(prompts), videos, before)
        before = videos
    return {"prompts": list(prompts.values()), "checkpoints": columns}


def _row(video: Mapping[str, Any]) -> Row:
    return Path(video["name"]).stem, video["prompt"], video["seed"]


def _prompt(video: Mapping[str, Any]) -> dict[str, Any]:
    shape = {key: video.get(key) for key in ("height", "width")}
    return {"id": Path(video["name"]).stem, "text": video["prompt"], "seed": video["seed"], **shape}


def _column(
    path: Path,
    result: Result,
    videos: Mapping[Row, Mapping[str, Any]],
    prompts: Sequence[Row],
    rows: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    return {
        "step": result["global_step"],
        "epoch": result["epoch"],
        "checkpoint": result["checkpoint"],
        "attempt": rows.get(result["global_step"], {}).get("attempt"),
        "weights": result["weights"],
        "folder": f"{path.parts[-3]}/{path.parts[-2]}",
        "alarms": result.get("alarms", []),
        "videos": [_cell(videos[row]) if row in videos else None for row in prompts],
    }


def _cell(video: Mapping[str, Any]) -> list[Any]:
    measures = video.get("measures") or {}
    return [video["name"], video.get("poster"), *(measures.get(name) for name in MEASURES)]


def _means(
    prompts: Sequence[Row],
    now: Mapping[Row, Mapping[str, Any]],
    before: Mapping[Row, Mapping[str, Any]],
) -> dict[str, Any]:
    """Of each measure the mean with its interval, and the difference to the checkpoint before."""
    means = {}
    for name in MEASURES:
        values, others = _values(name, prompts, now), _values(name, prompts, before)
        mean = mean_of([value for value in values if value is not None])
        difference = paired_difference(values, others)
        means[name] = mean and {
            **_rounded(asdict(mean)),
            "difference": difference and _rounded(asdict(difference)),
        }
    return means


def _values(
    name: str, prompts: Sequence[Row], videos: Mapping[Row, Mapping[str, Any]]
) -> list[float | None]:
    return [(videos.get(row, {}).get("measures") or {}).get(name) for row in prompts]


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
