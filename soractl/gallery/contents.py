"""The gallery: what was sampled of runs, as data for the page that shows it."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
VALIDATION = "validation_loss"
LOSSES = ("loss", VALIDATION)
MOST_LOSSES = 500  # points of a curve
_NOT_SHOWN = ("contrast", "colours")  # they are for alarms

_NEEDED = {"global_step", "epoch", "checkpoint", "weights", "videos"}

Result = Mapping[str, Any]
Row = tuple[str, str, int]  # file without its kind, prompt, seed: what columns share


def gallery_of(runs: Sequence[RunDir], folder_of: Mapping[RunDir, str]) -> dict[str, Any]:
    """All that the page shows, as JSON; `folder_of` a run is its `eval/` as the page links to it.

    Results that cannot be read are left out.
    """
    found = {run: list(_results(run)) for run in runs}
    measures = _measures(result for of_run in found.values() for _, result in of_run)
    shown = [_run(run, folder_of[run], found[run], measures) for run in runs]
    return {
        "schema_version": SCHEMA_VERSION,
        "made_unix_s": time.time(),
        "measures": measures,
        "metrics": _metrics(shown, measures),
        "runs": shown,
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


def _measures(results: Iterable[Result]) -> list[str]:
    """Measures of single videos: ours, then those of a program of the operator's own."""
    known = {*MEASURES, *_NOT_SHOWN}
    more = {
        name
        for result in results
        for video in result["videos"]
        for name in video.get("measures") or ()
        if name not in known
    }
    return [*MEASURES, *sorted(more)]


def _metrics(runs: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> list[str]:
    """Names of all means: measures, then what is of a whole checkpoint."""
    columns = [
        column
        for run in runs
        for preset in run["presets"].values()
        for column in preset["checkpoints"]
    ]
    known = {name for column in columns for name, mean in column["means"].items() if mean}
    return [*measures, *sorted(known - {*measures})]


def _run(
    run: RunDir, folder: str, found: Sequence[tuple[Path, Result]], measures: Sequence[str]
) -> dict[str, Any]:
    validated = _validated(run)
    rows = {int(row["global_step"]): row for row in metrics_rows(run)}
    presets: dict[str, list[tuple[Path, Result]]] = {}
    for path, result in found:
        presets.setdefault(path.parts[-3], []).append((path, result))
    return {
        "name": run.name,
        "folder": folder,
        "losses": {name: _curve(rows, name) for name in LOSSES},
        "presets": {
            name: _preset(columns, rows, measures, validated) for name, columns in presets.items()
        },
    }


def _results(run: RunDir) -> Iterator[tuple[Path, Result]]:
    """Results by preset and step, also of checkpoints whose videos are still being made.

    Those that cannot be read are left out.
    """
    for path in run.evaluations_begun():
        with suppress(OSError, RunDirError):
            result = read_json(path)
            if result.keys() >= _NEEDED:
                yield path, result


def _curve(rows: Mapping[int, Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    points = [(step, float(rows[step][name])) for step in sorted(rows) if name in rows[step]]
    return points[:: 1 + len(points) // MOST_LOSSES]


def _validated(run: RunDir) -> dict[int, list[float]]:
    """Losses of the validation's clips by step; of a step that was trained twice, the last ones."""
    found = {}
    if run.validation.exists():
        for line in run.validation.read_text().splitlines():
            with suppress(ValueError):  # half a line, of a process that was killed
                row = json.loads(line)
                found[int(row["global_step"])] = row["losses"]
    return found


def _preset(
    found: Sequence[tuple[Path, Result]],
    rows: Mapping[int, Mapping[str, Any]],
    measures: Sequence[str],
    validated: Mapping[int, Sequence[float]],
) -> dict[str, Any]:
    """Prompts in the order in which they first came, and for each checkpoint a video a prompt."""
    prompts: dict[Row, dict[str, Any]] = {}
    for _, result in found:
        for video in result["videos"]:
            prompts.setdefault(_row(video), _prompt(video))
    columns = []
    before: Mapping[str, Sequence[float | None]] = {}
    for path, result in found:
        videos = {_row(video): video for video in result["videos"]}
        columns.append(_column(path, result, videos, list(prompts), rows, measures))
        values: dict[str, Sequence[float | None]] = {
            name: _values(name, list(prompts), videos) for name in measures
        }
        values[VALIDATION] = validated.get(result["global_step"], ())
        columns[-1]["means"] = _means(values, before) | _of_all(result)
        before = values
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
    measures: Sequence[str],
) -> dict[str, Any]:
    return {
        "is_whole": result.get("is_whole", True),
        "step": result["global_step"],
        "epoch": result["epoch"],
        "checkpoint": result["checkpoint"],
        "attempt": rows.get(result["global_step"], {}).get("attempt"),
        "weights": result["weights"],
        "folder": f"{path.parts[-3]}/{path.parts[-2]}",
        "alarms": result.get("alarms", []),
        "videos": [_cell(videos[row], measures) if row in videos else None for row in prompts],
    }


def _cell(video: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    measures = video.get("measures") or {}
    return [video["name"], video.get("poster"), *(measures.get(name) for name in names)]


def _means(
    now: Mapping[str, Sequence[float | None]], before: Mapping[str, Sequence[float | None]]
) -> dict[str, Any]:
    """Of each measure the mean with its interval, and the difference to the checkpoint before."""
    means = {}
    for name, values in now.items():
        others = before.get(name, ())
        mean = mean_of([value for value in values if value is not None])
        same = len(values) == len(others)  # the same prompts, or clips
        difference = paired_difference(values, others) if same else None
        means[name] = mean and {
            **_rounded(asdict(mean)),
            "difference": difference and _rounded(asdict(difference)),
        }
    return means


def _of_all(result: Result) -> dict[str, Any]:
    """Metrics of all videos together, which a program of one's own found: without an interval."""
    return {
        name: {"mean": one["value"], "low": None, "high": None, "n": one["n"], "difference": None}
        for name, one in (result.get("metrics") or {}).items()
    }


def _values(
    name: str, prompts: Sequence[Row], videos: Mapping[Row, Mapping[str, Any]]
) -> list[float | None]:
    return [(videos.get(row, {}).get("measures") or {}).get(name) for row in prompts]


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
