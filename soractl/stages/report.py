"""Lines and JSON of the `config` commands."""

from collections.abc import Sequence
from typing import Any

from soractl.stages.comparison import SettingRow
from soractl.stages.files import CopyPlan, StageFile
from soractl.terminal import text
from soractl.terminal.table import Table


def parts(stages: Sequence[str], rows: Sequence[SettingRow]) -> list[str | Table]:
    """The table, or that there is nothing to show in one."""
    return [table(stages, rows)] if rows else [f"{' and '.join(stages)} have the same settings"]


def table(stages: Sequence[str], rows: Sequence[SettingRow]) -> Table:
    """Settings, one column a stage, and where a value comes from."""
    headers = ("setting", "value", "from") if len(stages) == 1 else ("setting", *stages, "")
    cells = tuple((row.setting, *map(text.value, row.values), row.note) for row in rows)
    return Table(headers, cells, words=len(headers) - 1)


def as_json(stages: Sequence[str], rows: Sequence[SettingRow]) -> dict[str, Any]:
    """The same for programs, nothing folded."""
    values = {row.setting: dict(zip(stages, row.values, strict=True)) for row in rows}
    origins = {row.setting: row.note for row in rows} if len(stages) == 1 else {}
    return {"stages": list(stages), "settings": values, "origins": origins}


def list_table(stages: Sequence[StageFile]) -> Table:
    """A table of stages and files."""
    rows = [
        (stage.name, str(stage.path), f"instead of {stage.hides}" if stage.hides else "")
        for stage in stages
    ]
    return Table(("stage", "file", ""), tuple(rows), words=2)


def list_json(stages: Sequence[StageFile]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "stages": [
            {
                "name": stage.name,
                "path": str(stage.path),
                "hides": str(stage.hides) if stage.hides else None,
            }
            for stage in stages
        ]
    }


def copy_lines(plan: CopyPlan, *, dry_run: bool) -> list[str]:
    """The copy, and what to type next."""
    name = plan.target.stem
    did = "would copy" if dry_run else "copied"
    return [
        f"{did} {plan.source} to {plan.target}",
        f"edit it, then: soractl launch {name} --dry-run",
    ]


def copy_json(plan: CopyPlan, *, dry_run: bool) -> dict[str, Any]:
    """The same for programs."""
    return {"source": str(plan.source), "target": str(plan.target), "copied": not dry_run}
