"""Lines and JSON of the `ckpt` commands."""

from typing import Any

from soractl.checkpoints.adopt import Adoption
from soractl.checkpoints.manage import CheckpointRow, Listing, Pruned, Verified
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.lines import BadLine
from soractl.terminal.table import Table
from trainer.manifest import checkpoint_name

HEADERS = ("CHECKPOINT", "EPOCH", "STEP", "SIZE", "AGE", "PARTS", "READ BY")


def list_parts(listing: Listing) -> list[str | Table]:
    """A row for each complete checkpoint, the reason for each incomplete one, and the count."""
    complete = [row for row in listing.rows if row.incomplete is None]
    broken = [row for row in listing.rows if row.incomplete is not None]
    reasons = [BadLine(f"is not complete: {row.path.name}: {row.incomplete}") for row in broken]
    tables = [Table(HEADERS, tuple(map(_cells, complete)), words=2)] if complete else []
    size = text.size(sum(row.size_bytes or 0 for row in complete))
    others = f", {len(broken)} not complete" if broken else ""
    return [*tables, *reasons, f"{listing.run.name}: {_checkpoints(len(complete))}, {size}{others}"]


def list_json(listing: Listing) -> dict[str, Any]:
    """The same for programs."""
    return {"run": listing.run.name, "checkpoints": [_row_json(row) for row in listing.rows]}


def verify_lines(verified: Verified) -> list[str]:
    """Every broken file, every incomplete folder, and the count."""
    lines = [
        BadLine(f"{name}: {file} {fault}")
        for name, files in verified.broken.items()
        for file, fault in files.items()
    ]
    lines += [
        BadLine(f"is not complete: {name}: {why}") for name, why in verified.incomplete.items()
    ]
    size = text.size(sum(known.manifest.size_bytes for known in verified.checkpoints))
    good = len(verified.checkpoints) - len(verified.broken)
    return [*lines, f"{good} ok, {len(verified.broken)} broken; {size} read"]


def verify_json(verified: Verified) -> dict[str, Any]:
    """The same for programs."""
    return {
        "verified": [str(known.path) for known in verified.checkpoints],
        "broken": verified.broken,
        "incomplete": dict(verified.incomplete),
    }


def prune_lines(pruned: Pruned) -> list[str]:
    """Removed checkpoints, and the rule by which the others stay."""
    word = "would remove" if pruned.dry_run else "removed"
    lines = [f"{word} {text.path(checkpoint.path)}" for checkpoint in pruned.removed]
    size = text.size(sum(known.manifest.size_bytes for known in pruned.removed))
    every = f" and every {pruned.keep_every} steps" if pruned.keep_every else ""
    rule = f"the last {pruned.keep_last}{every}" if pruned.keep_last else "all"
    removed, kept = _checkpoints(len(pruned.removed)), len(pruned.kept)
    return [*lines, f"{word} {removed}, {size}; kept {kept} ({rule}, and what is being read)"]


def prune_json(pruned: Pruned) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": pruned.run.name,
        "dry_run": pruned.dry_run,
        "keep_last": pruned.keep_last,
        "keep_every_steps": pruned.keep_every,
        "removed": [checkpoint.name for checkpoint in pruned.removed],
        "kept": [checkpoint.name for checkpoint in pruned.kept],
    }


def adopt_lines(adoption: Adoption) -> list[str]:
    """Adopted tensors, parts that start anew, and the next command."""
    found, run = adoption.found, adoption.run
    name = checkpoint_name(found["epoch"], found["global_step"])
    where = text.path(run.checkpoints_folder / name)
    word = "adopted" if adoption.is_done else "would adopt"
    tensors = [f"{part}: {count} tensors" for part, count in found["loaded"].items()]
    without = [] if "ema" in found["loaded"] else ["ema: none, there is no ema.pt"]
    return [
        f"{word} {text.path(adoption.folder)} as {where}",
        *tensors,
        *without,
        "optimizer: starts anew, so `resume` has nothing here to go on with",
        f"next: `{to_type('launch', 'STAGE', '--init-from', text.path(run.path))}`, "
        f"or a stage that comes after {adoption.stage}",
    ]


def adopt_json(adoption: Adoption) -> dict[str, Any]:
    """The same for programs."""
    return {
        "folder": str(adoption.folder),
        "run": adoption.run.name,
        "stage": adoption.stage,
        "dry_run": not adoption.is_done,
        **adoption.found,
    }


def _cells(row: CheckpointRow) -> tuple[str, ...]:
    size = text.size(row.size_bytes or 0)
    age = "-" if row.age_s is None else text.duration(row.age_s)
    parts, readers = " ".join(row.parts), " ".join(row.readers)
    counts = str(row.epoch), str(row.global_step)
    return row.path.name, *counts, size, age, parts, readers or "-"


def _row_json(row: CheckpointRow) -> dict[str, Any]:
    return {
        "name": row.path.name,
        "path": str(row.path),
        "incomplete": row.incomplete,
        "epoch": row.epoch,
        "global_step": row.global_step,
        "size_bytes": row.size_bytes,
        "age_s": row.age_s,
        "parts": list(row.parts),
        "readers": list(row.readers),
    }


def _checkpoints(number: int) -> str:
    return text.count(number, "checkpoint")
