"""Files of prompts: plain text, or TOML and CSV with an id, a seed and a size for each prompt.

A TOML file holds tables `[[prompt]]`, a CSV file one row a prompt; `text` is needed, and every
other column (`Entry`'s fields) may be left out: what the command line says then applies.
"""

import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.sampling.prompts import read_prompts
from trainer.settings import ConfigError, read_toml

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBERS = ("seed", "fps", "loops")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One prompt of a file; None where the file leaves a choice open."""

    text: str
    id: str | None = None  # the video's file name
    seed: int | None = None
    frames: str | None = None
    resolution: str | None = None
    ratio: str | None = None
    fps: int | None = None
    loops: int | None = None
    reference: str | None = None  # paths joined by ';'
    mask_strategy: str | None = None


_FIELDS = tuple(field.name for field in dataclasses.fields(Entry))


def read_entries(path: Path) -> list[Entry]:
    """The prompts of a file in its order; ConfigError names every fault, with its prompt."""
    if path.suffix.lower() == ".toml":
        rows = read_toml(path).get("prompt", [])
    elif path.suffix.lower() == ".csv":
        rows = _csv_rows(path)
    else:
        return [Entry(line) for line in read_prompts(path)]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        raise ConfigError([f"{path} holds no prompt; it has tables [[prompt]] with a `text`"])
    faults = [
        f"{path}, prompt {number}: {fault}"
        for number, row in enumerate(rows, 1)
        if (fault := _fault(row))
    ]
    ids = Counter(str(row["id"]) for row in rows if row.get("id") is not None)
    faults += [
        f"{path}: {count} prompts have the id {id_!r}" for id_, count in ids.items() if count > 1
    ]
    if faults:
        raise ConfigError(faults)
    return [_entry(row) for row in rows]


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """Rows without their empty cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # strict: a quote that nothing closes takes no prompt along
            table = csv.DictReader(file, restkey="(beyond the header)", strict=True)
            names, rows = Counter(table.fieldnames or ()), list(table)
    except csv.Error as error:
        fault = (
            f'{path}, line {table.reader.line_num}: {error}; a text with quotes is "a ""red"" cat"'
        )
        raise ConfigError([fault]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {error}"]) from None
    if twice := [name for name, count in names.items() if count > 1 and name]:
        raise ConfigError([f"{path} has two columns {twice[0]!r}"])
    return [{key: value for key, value in row.items() if value or key == "text"} for row in rows]


def _fault(row: Mapping[str, Any]) -> str | None:
    if unknown := sorted(row.keys() - set(_FIELDS)):
        return f"no column {unknown[0]!r}; expected {', '.join(_FIELDS)}"
    if not isinstance(row.get("text"), str):
        return "it has no text"
    if (id_ := row.get("id")) is not None and not _ID.fullmatch(str(id_)):
        return f"id {id_!r}; expected up to 100 letters, digits, '.', '_' and '-'"
    for name in _NUMBERS:
        value = row.get(name)
        if value is not None and not re.fullmatch(r"\d{1,18}", str(value)):
            return f"{name} {value!r}; expected a whole number"
    return None


def _entry(row: Mapping[str, Any]) -> Entry:
    values: dict[str, Any] = {
        key: int(value) if key in _NUMBERS else str(value) for key, value in row.items()
    }
    return Entry(**values)
