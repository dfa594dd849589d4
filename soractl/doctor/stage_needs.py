"""Needs of a stage on its nodes: weights, clips, room for checkpoints, a login."""

import csv
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from soractl.data.buckets import steps_of_epoch
from soractl.data.table import NUMBERS, OTHER_NAMES
from soractl.errors import SoractlError
from soractl.estimate.stage import checkpoint_bytes
from soractl.launch.preflight import PACKAGES
from soractl.launch.prepare import Prepared
from soractl.terminal import text
from trainer.config import TrainConfig

SAMPLED_CLIPS = 64
WANDB = "https://api.wandb.ai"
NOT_ONLINE = ("offline", "disabled", "dryrun")
TRIED_ROWS = 8  # at each place of a table


@dataclass(frozen=True)
class StageNeeds:
    """Questions to nodes about a stage, and its facts known here."""

    question: Mapping[str, Any]
    facts: Mapping[str, str]


def needs_of(prepared: Prepared) -> StageNeeds:
    """All of it."""
    config, site = prepared.config, prepared.site
    table = site.workdir / config.data.path
    logs_in = config.log.wandb and _mode(prepared) not in NOT_ONLINE
    question: dict[str, Any] = {
        "weights": list(_weights(prepared)),
        "table": str(table),
        "clips": sampled_clips(table, SAMPLED_CLIPS),
        "features": config.data.features,
        "packages": (*PACKAGES, "wandb") if config.log.wandb else PACKAGES,
    }
    if logs_in:
        url = str(site.cluster.env.get("WANDB_BASE_URL", WANDB))
        question["wandb"] = urlsplit(url).hostname or url
    count, one = checkpoints_kept(config, _steps(prepared)), checkpoint_bytes(config)
    return StageNeeds(
        question,
        {
            "missing": prepared.plan.start.missing or "none",
            "needed bytes": str(count * one),
            "needed for": f"{text.count(count, 'checkpoint')} of {text.size(one)} "
            f"need {text.size(count * one)}",
        },
    )


def checkpoints_kept(config: TrainConfig, steps: int | None) -> int:
    """Checkpoints on the disk at most: the newest, those kept for ever, and one being written.

    Where the stage's steps are not known, those that are kept for ever are not counted.
    """
    saving = config.checkpoint
    made = (steps or 0) // saving.every_steps if saving.every_steps else 0
    kept = saving.keep_last or made
    if saving.keep_last and saving.keep_every_steps:
        kept += (steps or 0) // saving.keep_every_steps
    return min(kept, made or kept) + 1


def sampled_clips(table: Path, count: int) -> list[str]:
    """Paths of some rows from all over a table, without reading all of it."""
    try:
        if table.suffix == ".parquet":
            return _of_parquet(table, count)
        return list(_of_csv(table, count))
    except (OSError, ValueError, ImportError, csv.Error):
        return []  # what is wrong with the table is another question's answer


def _of_csv(table: Path, count: int) -> Iterator[str]:
    with table.open("rb") as file:
        names = next(csv.reader([file.readline().decode()]), [])
        begin, end = file.tell(), table.stat().st_size
        for at in range(begin, end, max(1, (end - begin) // count)):
            file.seek(at)
            if at > begin:
                file.readline()  # the rest of a row
            rows = islice(csv.reader(line.decode(errors="replace") for line in file), TRIED_ROWS)
            yield from islice(filter(None, (_path_in(row, names) for row in rows)), 1)


def _path_in(row: list[str], names: list[str]) -> str:
    """Empty for what is no row: a caption may have line breaks, and was entered in its middle."""
    if len(row) != len(names):
        return ""
    cells = dict(zip(names, row, strict=True))
    is_row = all(_is_number(cells[name]) for name in NUMBERS if name in cells)
    path = cells[_path_column(names)]
    return path if is_row and Path(path).suffix else ""


def _of_parquet(table: Path, count: int) -> list[str]:
    from pyarrow import parquet

    column = _path_column(parquet.read_schema(table).names)
    paths = parquet.read_table(table, columns=[column])[column]
    return [str(paths[row]) for row in range(0, len(paths), max(1, len(paths) // count))]


def _path_column(names: list[str]) -> str:
    """ValueError where no column holds paths."""
    found = [name for name in ("path", *OTHER_NAMES["path"]) if name in names]
    if not found:
        raise ValueError(f"no column of paths among {names}")
    return found[0]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _weights(prepared: Prepared) -> Iterator[str]:
    config, start = prepared.config, prepared.plan.start
    if start.kind == "init_from" and start.path:
        yield str(start.path)
    encoders = {"video": config.vae.weights, "text": config.text_encoder.weights}
    cached = prepared.site.workdir / config.data.features if config.data.features else None
    for kind, weights in encoders.items():  # what is cached needs no encoder
        if weights and not (cached and any(cached.glob(f"{kind}-*"))):
            yield weights


def _steps(prepared: Prepared) -> int | None:
    """Of the whole stage; None where the table does not say, or where it makes no difference."""
    config = prepared.config
    saving = config.checkpoint
    if config.trainer.max_steps:
        return config.trainer.max_steps
    if saving.keep_last and not saving.keep_every_steps:
        return None
    with suppress(SoractlError, ImportError, OSError, ValueError):
        table = prepared.site.workdir / config.data.path
        [steps] = steps_of_epoch(config, table, (prepared.plan.world_size,))
        return steps * config.epochs
    return None


def _mode(prepared: Prepared) -> str:
    environment = prepared.plan.nodes[0].environment
    return environment.get("WANDB_MODE", "online")
