"""Metrics of a program of one's own, in an environment of its own: JSON in, JSON out.

`[eval] command` gets on stdin `{"schema_version", "run", "preset", "global_step", "weights",
"videos": [{"path", "prompt", "seed"}]}` and answers on stdout with `{"metrics": {NAME: VALUE}}`: a
list with a number (or null) for each video, or `{"value", "n"}` for all of them together.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soractl.cluster.settings import EvalSettings
from soractl.evaluation.find_new import Item
from soractl.evaluation.results import Video
from soractl.remote.nodes import this_machine
from soractl.remote.requests import Remote, Request

SCHEMA_VERSION = 1
FEWEST_FOR_FVD = 256  # with fewer it is mostly noise
_LARGEST = 1e300  # a float holds it
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,49}")


@dataclass(frozen=True)
class Measured:
    """Videos with more measures, metrics of all of them together, and what is wrong."""

    videos: list[Video]
    metrics: dict[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


class _WrongAnswer(ValueError):
    """The program's answer is not as it must be."""


@dataclass(frozen=True)
class OutsideMetrics:
    """The program of `[eval] command`; its failure costs its metrics, and nothing else."""

    settings: EvalSettings
    remote: Remote

    def measure(self, item: Item, weights: str, videos: Sequence[Video]) -> Measured:
        """The videos with what the program says of them."""
        argv = tuple(self.settings.command)
        request = Request(argv, json.dumps(_question(item, weights, videos)))
        result = self.remote(this_machine(), request, self.settings.timeout_s)
        if not result.ok:
            return Measured(list(videos), faults=(f"no outside metrics: {result.reason}",))
        try:
            return _measured(videos, _metrics(result.stdout))
        except _WrongAnswer as error:
            return Measured(list(videos), faults=(f"no outside metrics: {argv[0]}: {error}",))


def _question(item: Item, weights: str, videos: Sequence[Video]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run": item.run.name,
        "preset": item.preset,
        "global_step": item.checkpoint.manifest.global_step,
        "weights": weights,
        "videos": [
            {
                "path": str((item.folder / video["name"]).absolute()),
                "prompt": video["prompt"],
                "seed": video["seed"],
            }
            for video in videos
        ],
    }


def _metrics(stdout: str) -> Mapping[str, Any]:
    """The metrics in the last line that is printed; what came before is talk of libraries."""
    line = (stdout.strip().splitlines() or [""])[-1]
    try:
        answer = json.loads(line)
    except ValueError:
        raise _WrongAnswer(f"the last line is no JSON: {line[:100]!r}") from None
    metrics = answer.get("metrics") if isinstance(answer, dict) else None
    if not isinstance(metrics, dict):
        raise _WrongAnswer('the last line has no {"metrics": {...}}')
    return metrics


def _measured(videos: Sequence[Video], metrics: Mapping[str, Any]) -> Measured:
    """_WrongAnswer for a name or a value that is none."""
    own = {name for video in videos for name in video.get("measures") or ()}
    measured = [{**video, "measures": dict(video.get("measures") or {})} for video in videos]
    of_all: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in metrics.items():
        if not _NAME.fullmatch(name):
            raise _WrongAnswer(f"metric {name!r}; expected letters, digits, '_', '.' and '-'")
        if name in own:
            raise _WrongAnswer(f"metric {name} is one of soractl's own; give it another name")
        if isinstance(value, list):
            for video, one in zip(measured, _numbers(name, value, len(videos)), strict=True):
                video["measures"][name] = one
        elif isinstance(value, dict) and _is_number(value.get("value")):
            n = _count(name, value.get("n", len(videos)))
            if name.lower().startswith("fvd") and n < FEWEST_FOR_FVD:
                faults.append(f"{name} of {n} videos is left out: it takes {FEWEST_FOR_FVD}")
                continue
            of_all[name] = {"value": float(value["value"]), "n": n}
        else:
            raise _WrongAnswer(f'metric {name}: expected a list, or {{"value", "n"}}')
    return Measured(measured, of_all, tuple(faults))


def _numbers(name: str, values: list[Any], count: int) -> list[float | None]:
    if len(values) != count:
        raise _WrongAnswer(f"metric {name} has {len(values)} values for {count} videos")
    if not all(value is None or _is_number(value) for value in values):
        raise _WrongAnswer(f"metric {name} has a value that is no number")
    return [None if value is None else float(value) for value in values]


def _count(name: str, n: Any) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise _WrongAnswer(f"metric {name}: n is {n!r:.50}; expected a number of videos")
    return n


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < _LARGEST  # false of NaN too
