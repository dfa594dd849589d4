"""Lines and JSON of `config show` and `config diff`."""

from collections.abc import Sequence
from typing import Any

from soractl.stages.comparison import Row
from soractl.terminal import text


def lines(stages: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """A table: settings, one column a stage, and where a value comes from."""
    if not rows:
        return [f"{' and '.join(stages)} have the same settings"]
    headers = ["setting", "value", "from"] if len(stages) == 1 else ["setting", *stages, ""]
    return text.table(
        headers, [[row.setting, *map(text.value, row.values), row.note] for row in rows]
    )


def as_json(stages: Sequence[str], rows: Sequence[Row]) -> dict[str, Any]:
    """The same for programs, nothing folded."""
    values = {row.setting: dict(zip(stages, row.values, strict=True)) for row in rows}
    origins = {row.setting: row.note for row in rows} if len(stages) == 1 else {}
    return {"stages": list(stages), "settings": values, "origins": origins}
