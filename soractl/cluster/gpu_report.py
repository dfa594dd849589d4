"""Tables of `gpus`: a row for each node, for each GPU, or for each process."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, Literal

from soractl.cluster import gpu_columns
from soractl.cluster.gpu_columns import Combine, Number, combined
from soractl.cluster.gpus import Gpu, GpuProcess, NodeGpus
from soractl.cluster.watch import Look
from soractl.terminal.lines import Verbatim
from soractl.terminal.table import Table

View = Literal["nodes", "gpus", "processes"]
Only = Literal["busy", "idle", "bad"]
Order = Literal["node", "util", "mem", "power", "temp"]

PROCESS_HEADERS = ("NODE", "GPU", "PID", "USER", "MEM GiB", "RUN", "COMMAND")
UNKNOWN = "-"


@dataclass(frozen=True)
class Column:
    """A column of the table of nodes: its cell, and its cell in the total."""

    header: str
    cell: Callable[[NodeGpus], str]
    total: Callable[[Sequence[NodeGpus]], str] = lambda rows: ""


def choose(rows: Sequence[NodeGpus], only: Only | None, order: Order) -> list[NodeGpus]:
    """The rows that were asked for; those with the highest number first, or as in the hostfile."""
    wanted = {"busy": lambda r: r.busy, "bad": lambda r: r.bad, "idle": _is_idle}
    chosen = [row for row in rows if only is None or wanted[only](row)]
    by = next((number for number in gpu_columns.NUMBERS if number.sort == order), None)
    if by is None:
        return chosen
    [combine, *_] = by.columns.values()
    return sorted(chosen, key=lambda row: _of([row], by.key, combine) or 0, reverse=True)


def table(rows: Sequence[NodeGpus], what: View, *, total: bool = True) -> Table:
    """The table; what is not known is `-`, never 0. `total` adds a line below several nodes."""
    if what == "gpus":
        return _table(gpu_headers(), 1, [(row, cells) for row in rows for cells in _gpu_cells(row)])
    if what == "processes":
        found = [(row, cells) for row in rows for cells in _process_cells(row)]
        return _table(PROCESS_HEADERS, 2, found)
    columns = node_columns()
    found = [(row, tuple(column.cell(row) for column in columns)) for row in rows]
    shown = _table(tuple(column.header for column in columns), 2, found)
    if len(rows) < 2 or not total:
        return shown
    sums = tuple(column.total(rows) for column in columns)
    return Table(shown.headers, (*shown.rows, sums), shown.words, (*shown.styles, "bold"))


def early_table(look: Look, what: View, only: Only | None, order: Order) -> Table:
    """The rows that are there while others are waited for; no total."""
    return table(choose(look.rows, only, order), what, total=False)


def view(per_gpu: bool, procs: bool) -> View:
    """The kind of row that the options ask for."""
    return "gpus" if per_gpu else "processes" if procs else "nodes"


def csv_lines(shown: Table) -> list[Verbatim]:
    """The table for spreadsheets."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([shown.headers, *shown.rows])
    return [Verbatim(line) for line in buffer.getvalue().splitlines()]


def node_columns() -> list[Column]:
    """Columns of the table of nodes: those of `gpu_columns.NUMBERS`, and what is counted."""
    return [
        Column("NODE", lambda row: row.node.name, lambda rows: "total"),
        Column(
            "GPUS",
            lambda row: _count([row.gpu_count]),
            lambda rows: _count([row.gpu_count for row in rows]),
        ),
        *(
            _column(header, number, combine)
            for number in gpu_columns.NUMBERS
            for header, combine in number.columns.items()
        ),
        Column(
            "PROCS",
            lambda row: _count([row.process_count]),
            lambda rows: _count([row.process_count for row in rows]),
        ),
        Column("RUN/OWNER", _owner),
        Column("NOTE", _note),
    ]


def gpu_headers() -> tuple[str, ...]:
    """Headers of the table of GPUs."""
    numbers = (number.gpu_header for number in gpu_columns.NUMBERS if number.gpu_header)
    return ("NODE", "GPU", "NAME", *numbers, "NOTE")


def as_json(rows: Sequence[NodeGpus]) -> dict[str, Any]:
    """Everything that is known; what is not known is null."""
    return {
        "nodes": [
            {
                "node": row.node.name,
                "error": str(row.fault) if row.fault else None,
                "notes": list(row.notes),
                "elapsed_s": row.elapsed_s,
                "gpus": _list(row.gpus, row.gpu_count),
                "processes": _list(row.processes, row.process_count),
            }
            for row in rows
        ]
    }


def _list(found: Sequence[Gpu | GpuProcess], number: int | None) -> list[dict[str, Any]] | None:
    if not found and number is None:
        return None
    return [one.as_json() if isinstance(one, Gpu) else asdict(one) for one in found]


def count(look: Look) -> str:
    """`hostfiles/nodes.txt: 22 ok, 1 with notes, 1 without an answer in 1.8 s`."""
    dead = sum(row.fault is not None for row in look.rows)
    odd = sum(row.bad for row in look.rows) - dead
    parts = [f"{len(look.rows) - dead - odd} ok"]
    parts += [f"{odd} with notes"] if odd else []
    parts += [f"{dead} without an answer"] if dead else []
    return f"{look.source.origin}: {', '.join(parts)} in {look.elapsed_s:.1f} s"


def _is_idle(row: NodeGpus) -> bool:
    return bool(row.gpus) and not row.busy


def _table(
    headers: tuple[str, ...], words: int, found: list[tuple[NodeGpus, tuple[str, ...]]]
) -> Table:
    styles = tuple(_style(row) for row, _ in found)
    return Table(headers, tuple(cells for _, cells in found), words, styles)


def _style(row: NodeGpus) -> str:
    """Colour of a row, which also has a note if it is bad, and numbers or a dash if not."""
    return "red" if row.bad else "green" if row.busy else "dim"


def _column(header: str, number: Number, combine: Combine) -> Column:
    return Column(
        header,
        lambda row: _cell([row], number, combine),
        lambda rows: _cell(rows, number, combine),
    )


def _cell(rows: Sequence[NodeGpus], number: Number, combine: Combine) -> str:
    of = _of(rows, number.of, combine) if number.of else None
    return _shown(number, _of(rows, number.key, combine), of)


def _of(rows: Sequence[NodeGpus], key: str, combine: Combine) -> float | None:
    return combined((gpu[key] for row in rows for gpu in row.gpus), combine)


def _shown(number: Number, value: float | None, of: float | None = None) -> str:
    cells = [
        UNKNOWN if one is None else f"{one / number.shown_in:.{number.digits}f}"
        for one in ([value] if of is None else [value, of])
    ]
    return "/".join(cells)


def _owner(row: NodeGpus) -> str:
    return ",".join([PurePath(run).name for run in row.run_ids] or row.users)


def _note(row: NodeGpus) -> str:
    return str(row.fault or "") or "; ".join(row.notes)


def _gpu_cells(row: NodeGpus) -> Iterator[tuple[str, ...]]:
    shown = [number for number in gpu_columns.NUMBERS if number.gpu_header]
    if row.fault or not row.gpus:
        yield (row.node.name, UNKNOWN, "", *(UNKNOWN for _ in shown), _note(row))
        return
    for gpu in row.gpus:
        cells = (_shown(n, gpu[n.key], gpu[n.of] if n.of else None) for n in shown)
        yield (
            *(row.node.name, str(gpu.index), gpu.name or UNKNOWN),
            *cells,
            "; ".join(gpu.notes),
        )


def _process_cells(row: NodeGpus) -> Iterator[tuple[str, ...]]:
    for process in row.processes:
        memory = process.mem_used_bytes
        yield (
            row.node.name,
            UNKNOWN if process.gpu_index is None else str(process.gpu_index),
            str(process.pid),
            process.user or UNKNOWN,
            UNKNOWN if memory is None else f"{memory / gpu_columns.GIB:.1f}",
            PurePath(process.run_id).name if process.run_id else UNKNOWN,
            process.command or UNKNOWN,
        )
    if row.process_count is None:
        yield (row.node.name, *([UNKNOWN] * 5), _note(row))


def _count(numbers: Sequence[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    return str(sum(known)) if known else UNKNOWN
