"""What `gpus` says: a row for each node, for each GPU, or for each process."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any, Literal

from soractl.cluster.gpus import Gpu, GpuProcess, NodeGpus
from soractl.cluster.watch import Look
from soractl.terminal import text

View = Literal["nodes", "gpus", "processes"]
Only = Literal["busy", "idle", "bad"]
Order = Literal["node", "util", "mem", "power", "temp"]

NODE_HEADERS = (
    *("NODE", "GPUS", "UTIL %", "MEM GiB", "POWER W/GPU", "POWER W", "TEMP C", "PROCS"),
    *("RUN/OWNER", "NOTE"),
)
GPU_HEADERS = ("NODE", "GPU", "NAME", "UTIL %", "MEM GiB", "POWER W", "TEMP C", "NOTE")
PROCESS_HEADERS = ("NODE", "GPU", "PID", "USER", "MEM GiB", "RUN", "COMMAND")

# Room for the longest cells that rows after the first may bring, beside the node's name.
_TO_COME: dict[View, tuple[str, ...]] = {
    "nodes": ("", "", "99999.9/99999.9", "", "", "", "", "999-long-stage-name", ""),
    "gpus": ("", "NVIDIA H100 80GB HBM3", "", "999.9/999.9", "", "", ""),
    "processes": ("", "9999999", "a-user-name", "999.9", "999-long-stage-name", ""),
}

_KEYS: dict[Order, Callable[[NodeGpus], float]] = {
    "util": lambda row: row.util_pct or 0,
    "mem": lambda row: row.mem_used_bytes or 0,
    "power": lambda row: row.power_w or 0,
    "temp": lambda row: row.max_temp_c or 0,
}


def choose(rows: Sequence[NodeGpus], only: Only | None, order: Order) -> list[NodeGpus]:
    """The rows that were asked for; those with the highest number first, or as in the hostfile."""
    wanted = {"busy": lambda r: r.busy, "bad": lambda r: r.bad, "idle": _is_idle}
    chosen = [row for row in rows if only is None or wanted[only](row)]
    return chosen if order == "node" else sorted(chosen, key=_KEYS[order], reverse=True)


def table(rows: Sequence[NodeGpus], what: View) -> list[tuple[str, ...]]:
    """Headers and cells; what is not known is `-`, never 0."""
    if what == "gpus":
        return [GPU_HEADERS, *(cells for row in rows for cells in _gpu_cells(row))]
    if what == "processes":
        return [PROCESS_HEADERS, *(cells for row in rows for cells in _process_cells(row))]
    cells = [NODE_HEADERS, *map(_node_cells, rows)]
    return [*cells, _total(rows)] if len(rows) > 1 else cells


def view(per_gpu: bool, procs: bool) -> View:
    """What a row is."""
    return "gpus" if per_gpu else "processes" if procs else "nodes"


def lines(rows: Sequence[NodeGpus], what: View, *, as_csv: bool = False) -> list[str]:
    """The table, for people or for spreadsheets."""
    headers, *cells = table(rows, what)
    if not as_csv:
        return text.table(headers, cells)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([headers, *cells])
    return buffer.getvalue().splitlines()


class Screen:
    """The table of one look, in two parts when some nodes take long."""

    def __init__(self, what: View, only: Only | None, order: Order, *, as_csv: bool) -> None:
        self._what, self._only, self._order, self._as_csv = what, only, order, as_csv
        self._early: list[NodeGpus] = []
        self._widths: list[int] = []

    @property
    def can_be_early(self) -> bool:
        """Whether rows can be shown before all are known."""
        return self._order == "node" and not self._as_csv

    def early(self, look: Look) -> list[str]:
        """The rows that are there, without a total, and with room for those that come."""
        self._early = choose(look.rows, self._only, self._order)
        headers, cells = _apart(table(self._early, self._what), with_total=False)
        name = max((node.name for node in look.source.nodes), key=len)
        to_come = (name, *_TO_COME[self._what])
        self._widths = text.column_widths([headers, *cells, to_come])
        return text.table(headers, cells, self._widths)

    def rest(self, look: Look) -> list[str]:
        """The rows that were not shown yet, and the total."""
        rows = choose(look.rows, self._only, self._order)
        if not self._early:
            return lines(rows, self._what, as_csv=self._as_csv)
        late = {row.node.name for row in rows} - {row.node.name for row in self._early}
        headers, cells = _apart(table(rows, self._what), with_total=True)
        wanted = [row for row in cells if row[0] in {*late, "total"}]
        return text.table(headers, wanted, self._widths)[1:]


def _apart(
    rows: list[tuple[str, ...]], *, with_total: bool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    headers, *cells = rows
    return headers, [row for row in cells if with_total or row[0] != "total"]


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
    return [asdict(one) for one in found] if found or number is not None else None


def count(look: Look) -> str:
    """`hostfiles/nodes.txt: 22 ok, 1 with notes, 1 without an answer in 1.8 s`."""
    dead = sum(row.fault is not None for row in look.rows)
    odd = sum(row.bad for row in look.rows) - dead
    told = [f"{len(look.rows) - dead - odd} ok"]
    told += [f"{odd} with notes"] if odd else []
    told += [f"{dead} without an answer"] if dead else []
    return f"{look.source.origin}: {', '.join(told)} in {look.elapsed_s:.1f} s"


def _is_idle(row: NodeGpus) -> bool:
    return bool(row.gpus) and not row.busy


def _node_cells(row: NodeGpus) -> tuple[str, ...]:
    runs = [PurePath(run).name for run in row.run_ids]
    return (
        row.node.name,
        _number(row.gpu_count),
        _number(row.util_pct),
        _gib(row.mem_used_bytes, row.mem_total_bytes),
        _number(row.mean_power_w),
        _number(row.power_w),
        _number(row.max_temp_c),
        _number(row.process_count),
        ",".join(runs or row.users),
        str(row.fault or "") or "; ".join(row.notes),
    )


def _total(rows: Sequence[NodeGpus]) -> tuple[str, ...]:
    utils = [gpu.util_pct for row in rows for gpu in row.gpus if gpu.util_pct is not None]
    powers = [gpu.power_w for row in rows for gpu in row.gpus if gpu.power_w is not None]
    used = [row.mem_used_bytes for row in rows if row.mem_used_bytes is not None]
    there = [row.mem_total_bytes for row in rows if row.mem_total_bytes is not None]
    return (
        "total",
        _number(_sum(row.gpu_count for row in rows)),
        _number(sum(utils) / len(utils) if utils else None),
        _gib(sum(used) if used else None, sum(there) if there else None),
        _number(sum(powers) / len(powers) if powers else None),
        _number(sum(powers) if powers else None),
        _number(max((r.max_temp_c for r in rows if r.max_temp_c is not None), default=None)),
        _number(_sum(row.process_count for row in rows)),
        "",
        "",
    )


def _gpu_cells(row: NodeGpus) -> list[tuple[str, ...]]:
    if row.fault or not row.gpus:
        reason = str(row.fault or "") or "; ".join(row.notes)
        return [(row.node.name, "-", "", "-", "-", "-", "-", reason)]
    return [
        (
            row.node.name,
            str(gpu.index),
            gpu.name or "-",
            _number(gpu.util_pct),
            _gib(gpu.mem_used_bytes, gpu.mem_total_bytes),
            _number(gpu.power_w),
            _number(gpu.temp_c),
            "; ".join(gpu.notes),
        )
        for gpu in row.gpus
    ]


def _process_cells(row: NodeGpus) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = [
        (
            row.node.name,
            "-" if process.gpu_index is None else str(process.gpu_index),
            str(process.pid),
            process.user or "-",
            _gib(process.mem_used_bytes),
            PurePath(process.run_id).name if process.run_id else "-",
            process.command or "-",
        )
        for process in row.processes
    ]
    if row.process_count is None:
        reason = str(row.fault or "") or "; ".join(row.notes)
        cells.append((row.node.name, "-", "-", "-", "-", "-", reason))
    return cells


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _gib(used: float | None, total: float | None = None) -> str:
    shown = "-" if used is None else f"{used / 2**30:.1f}"
    return shown if total is None else f"{shown}/{total / 2**30:.1f}"
