"""Settings of one stage with the files they come from, or of several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from trainer.config import Stage
from trainer.settings import settings

FOLD_FROM = 5  # numbers of one table that differ, such as masks
SHOWN = 2


@dataclass(frozen=True)
class SettingRow:
    """One setting and its value in each stage."""

    setting: str
    values: tuple[Any, ...]
    note: str = ""  # the file, or how many like it are not shown


def one(stage: Stage) -> list[SettingRow]:
    """Every setting of a stage and the file that it comes from."""
    values = settings(stage.config)
    return [SettingRow(key, (value,), stage.origins.get(key, "")) for key, value in values.items()]


def differing(stages: Sequence[Stage]) -> list[SettingRow]:
    """The settings that are not the same in all stages."""
    columns = [settings(stage.config) for stage in stages]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [SettingRow(key, tuple(column.get(key) for column in columns)) for key in keys]
    return [row for row in rows if any(value != row.values[0] for value in row.values)]


def folded(rows: Sequence[SettingRow]) -> list[SettingRow]:
    """Of many plain numbers in one table the two that differ most, and how many more there are."""
    short: list[SettingRow] = []
    for table, group in groupby(rows, lambda row: row.setting.rpartition(".")[0]):
        members = list(group)
        if len(members) < FOLD_FROM or not all(map(_is_numbers, members)):
            short += members
            continue
        chosen = sorted(members, key=_spread, reverse=True)[:SHOWN]
        kept = [row for row in members if row in chosen]
        more = f"(and {len(members) - SHOWN} more {table})"
        short += [*kept[:-1], SettingRow(kept[-1].setting, kept[-1].values, more)]
    return short


def _is_numbers(row: SettingRow) -> bool:
    return all(isinstance(value, int | float) for value in row.values)


def _spread(row: SettingRow) -> float:
    return float(max(row.values) - min(row.values))
