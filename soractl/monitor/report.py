"""Lines and JSON of `monitor` in a terminal."""

import socket
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from soractl.monitor.live import NodeNow, Snapshot
from soractl.terminal import text
from soractl.terminal.table import Table
from soractl.web.guard import is_loopback

HEADERS = (
    *("NODE", "GPUS", "POWER W", "UTIL %", "TEMP C", "IB IN", "IB OUT", "ETH IN", "ETH OUT"),
    *("LOAD", "CLOCK MS", "NOTE"),
)


def table(snapshot: Snapshot) -> Table:
    """A row for each node."""
    return Table(HEADERS, tuple(_row(node) for node in snapshot.nodes), words=1)


def screen(snapshot: Snapshot) -> list[str | Table]:
    """All nodes, and the time of their look, as a terminal shows them again and again."""
    seen = time.strftime("%H:%M:%S", time.localtime(snapshot.unix_s))
    return [f"{summary(snapshot)}, at {seen}", table(snapshot)]


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """The same for programs."""
    return snapshot.as_json()


def summary(snapshot: Snapshot) -> str:
    """`24 nodes, 23 answer, 131.2 kW`."""
    answering = sum(node.fault is None and node.values is not None for node in snapshot.nodes)
    parts = [text.count(len(snapshot.nodes), "node"), f"{answering} answer"]
    if snapshot.power_w is not None:
        parts.append(f"GPUs draw {snapshot.power_w / 1000:.1f} kW")
    return ", ".join(parts)


def address_hints(address: str) -> list[str]:
    """Hints to reach the page from elsewhere, and to end it."""
    lines = ["Ctrl-C ends it; what was collected stays"]
    host, port = urlsplit(address).hostname or "", urlsplit(address).port
    if is_loopback(host):
        tunnel = f"ssh -L {port}:{host}:{port} {socket.gethostname()}"
        lines.insert(0, f"from another machine: `{tunnel}`, then the same address")
    return lines


def _row(node: NodeNow) -> tuple[object, ...]:
    values = node.values
    offset = node.clock.offset if node.clock else None
    return (
        node.name,
        len(values.gpus) if values else "-",
        _number(node.power_w),
        _number(_mean(node.gpu_values("util_pct"))),
        _number(max(node.gpu_values("temp_c"), default=None)),
        *(_rate(node.rate(part, way)) for part in ("ports", "links") for way in ("in", "out")),
        _number(values.node["load"] if values else None, 1),
        _number(offset.value * 1000 if offset else None, 2),
        _note(node),
    )


def _note(node: NodeNow) -> str:
    if node.fault is not None:
        return str(node.fault)
    if node.values is None:
        return "no answer yet"
    return "; ".join([*node.odd, *([node.values.odd] if node.values.odd else [])])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{text.size(value)}/s"
