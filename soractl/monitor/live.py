"""The newest numbers of every node, for whoever shows them: page, terminal, Prometheus, JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soractl.errors import Fault
from soractl.health.clock_watch import NodeClock
from soractl.monitor.collect import Round
from soractl.monitor.sample import Values


@dataclass(frozen=True)
class NodeNow:
    """A node as it was seen last; no values before the first look, and while it is silent."""

    name: str
    values: Values | None = None
    fault: Fault | None = None
    clock: NodeClock | None = None
    seen_unix_s: int | None = None
    odd: tuple[str, ...] = ()  # against its siblings, in a few words

    def gpu_values(self, key: str) -> list[float]:
        """One number of its GPUs, as far as it is known."""
        gpus = self.values.gpus.values() if self.values else ()
        return [value for gpu in gpus if (value := gpu[key]) is not None]

    def rate(self, part: str, way: str) -> float | None:
        """Bytes a second, `in` or `out`, of its `ports` or `links`; None where none is known."""
        items = getattr(self.values, part).values() if self.values else ()
        return _sum(item[f"{way}_bytes_per_s"] for item in items)

    @property
    def power_w(self) -> float | None:
        """Of its GPUs."""
        return _sum(self.gpu_values("power_w"))

    def as_json(self) -> dict[str, Any]:
        """With unknown as null."""
        offset = self.clock.offset if self.clock else None
        return {
            "node": self.name,
            "error": str(self.fault) if self.fault else None,
            "seen_unix_s": self.seen_unix_s,
            **(_rounded(self.values.node) if self.values else {}),
            "gpus": self._items("gpus", "gpu"),
            "ports": self._items("ports", "port"),
            "links": self._items("links", "interface"),
            "clock_offset_s": round(offset.value, 6) if offset else None,
            "clock_bound_s": round(offset.bound, 6) if offset else None,
            "clock_verdict": str(self.clock.verdict.level) if self.clock else None,
            "clock_reasons": list(self.clock.verdict.reasons) if self.clock else [],
            "clock_daemon": _daemon(self.clock),
            "odd": list(self.odd),
            "odd_answer": self.values.odd if self.values else "",
        }

    def _items(self, part: str, name: str) -> list[dict[str, Any]]:
        items: Mapping[Any, Any] = getattr(self.values, part) if self.values else {}
        return [{name: item, **_rounded(numbers)} for item, numbers in items.items()]


@dataclass(frozen=True)
class Snapshot:
    """All nodes at one moment."""

    unix_s: int
    nodes: tuple[NodeNow, ...]

    @property
    def power_w(self) -> float | None:
        """Of all GPUs that are known."""
        return _sum(node.power_w for node in self.nodes)

    def as_json(self) -> dict[str, Any]:
        """As `soractl monitor --json` and the page have it."""
        return {"unix_s": self.unix_s, "nodes": [node.as_json() for node in self.nodes]}


class Live:
    """The newest numbers, renewed by each round."""

    def __init__(self, names: Sequence[str]) -> None:
        self.snapshot = Snapshot(0, tuple(NodeNow(name) for name in names))

    def update(self, found: Round) -> Snapshot:
        """Take a round in; a node without a look keeps what was known of it."""
        nodes = {node.name: node for node in self.snapshot.nodes}
        for look in found.looks:
            node = nodes[look.node.name]
            seen = look.unix_s if look.values else node.seen_unix_s
            nodes[node.name] = replace(node, values=look.values, fault=look.fault, seen_unix_s=seen)
        for clock in found.clocks:
            nodes[clock.node.name] = replace(nodes[clock.node.name], clock=clock)
        self.snapshot = Snapshot(found.unix_s, tuple(nodes.values()))
        return self.snapshot

    def mark_odd(self, found: Mapping[str, Sequence[str]]) -> Snapshot:
        """The newest look with what is odd about each node."""
        nodes = (replace(node, odd=tuple(found.get(node.name, ()))) for node in self.snapshot.nodes)
        self.snapshot = replace(self.snapshot, nodes=tuple(nodes))
        return self.snapshot


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rounded(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    return {key: None if value is None else round(value, 2) for key, value in numbers.items()}


def _daemon(clock: NodeClock | None) -> str | None:
    return clock.daemon.text if clock and clock.daemon else None
