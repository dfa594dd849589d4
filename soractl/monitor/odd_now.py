"""Things that are odd against their siblings now, by the looks of the last twenty minutes."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from soractl.diagnosis.odd import MEASURES, Odd, find_odd
from soractl.monitor.live import NodeNow, Snapshot

LOOK_S = 5.0  # the rule's period; looks that come sooner are passed over
KEPT = 240  # looks
EVERY = 6  # looks between two judgements, which take some 50 ms for 24 nodes

GIB_IN_MIB = 1024

Numbers = Mapping[str, list[list[float]]]  # of a look: by measure, [nodes][things]


class Recent:
    """The newest looks at all nodes, and what is odd in them."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, Numbers]] = deque(maxlen=KEPT)
        self._until_next = 0
        self._found: dict[str, list[str]] = {}

    def add(self, snapshot: Snapshot) -> dict[str, list[str]]:
        """Take in a look; what is odd in a few words, by node."""
        if self._looks and snapshot.unix_s - self._looks[-1][0] < LOOK_S:
            return self._found
        self._looks.append((snapshot.unix_s, numbers_of(snapshot.nodes)))
        self._until_next -= 1
        if self._until_next <= 0:
            self._until_next = EVERY
            self._found = self._judged(snapshot.nodes)
        return self._found

    def _judged(self, nodes: Sequence[NodeNow]) -> dict[str, list[str]]:
        looks = {name: _array([numbers[name] for _, numbers in self._looks]) for name in READ}
        known = {name: values for name, values in looks.items() if np.isfinite(values).any()}
        if "downs" in known:
            known["downs"] = _risen(known["downs"])
        found: dict[str, list[str]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a look at which nobody answered
            odds = find_odd(known)
        for odd in odds:
            node = nodes[odd.node]
            found.setdefault(node.name, []).append(sentence(odd, node, self._looks[odd.since][0]))
        return found


def numbers_of(nodes: Sequence[NodeNow]) -> Numbers:
    """Numbers that the rule compares: of GPUs, of ports, and of each node; NaN where unknown."""
    return {
        name: [[_known(one) for one in read(node)] for node in nodes] for name, read in READ.items()
    }


def sentence(odd: Odd, node: NodeNow, since_unix_s: float) -> str:
    """`GPU 2: power 270 W below its siblings since 04:12:30`."""
    since = f"since {time.strftime('%H:%M:%S', time.localtime(since_unix_s))}"
    thing = _name_of(odd, node)
    if odd.measure == "downs":
        return f"{thing}link went down {odd.difference:.0f} times {since}"
    measure = MEASURES[odd.measure]
    size = (
        f"{100 * abs(odd.difference):.0f} %"
        if measure.share
        else (f"{abs(odd.difference):.0f} {measure.unit}")
    )
    way = "above" if odd.difference > 0 else "below"
    return f"{thing}{odd.measure} {size} {way} its siblings {since}"


def _name_of(odd: Odd, node: NodeNow) -> str:
    if node.values is None or odd.thing is None or odd.measure == "memory":
        return ""
    of_ports = odd.measure in ("rate", "downs")
    items = sorted(node.values.ports if of_ports else node.values.gpus)
    if odd.thing >= len(items):
        return ""
    return f"{items[odd.thing]}: " if of_ports else f"GPU {items[odd.thing]}: "


def _gpu(key: str) -> Callable[[NodeNow], list[float | None]]:
    return lambda node: [
        gpu[key] for _, gpu in sorted((node.values.gpus if node.values else {}).items())
    ]


def _rates(node: NodeNow) -> list[float | None]:
    ports = sorted((node.values.ports if node.values else {}).items())
    both = [(rates["in_bytes_per_s"], rates["out_bytes_per_s"]) for _, rates in ports]
    return [None if one is None or other is None else one + other for one, other in both]


def _memory(node: NodeNow) -> list[float | None]:
    """GiB that are used."""
    if node.values is None:
        return []
    total = node.values.facts.get("node", {}).get("mem_total_mib")
    available = node.values.node.get("mem_available_mib")
    return [(float(total) - available) / GIB_IN_MIB if total and available is not None else None]


def _downs(node: NodeNow) -> list[float | None]:
    """Times that each port has gone down since the node started."""
    if node.values is None:
        return []
    counters = node.values.counters
    return [counters.get(f"{port} link_downed") for port in sorted(node.values.ports)]


READ: Mapping[str, Callable[[NodeNow], Sequence[float | None]]] = {
    "power": _gpu("power_w"),
    "clock": _gpu("clock_mhz"),
    "temperature": _gpu("temp_c"),
    "rate": _rates,
    "memory": _memory,
    "downs": _downs,
}


def _known(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _array(looks: Sequence[Sequence[Sequence[float]]]) -> Any:
    """[looks, nodes, things]; NaN where a node has fewer."""
    things = max((len(of) for look in looks for of in look), default=0)
    found = np.full((len(looks), len(looks[0]), things), np.nan)
    for at, look in enumerate(looks):
        for node, of in enumerate(look):
            found[at, node, : len(of)] = of
    return found


def _risen(totals: Any) -> Any:
    """Rise of counters since the look before; a reset or an unknown one is no event."""
    rise = np.diff(totals, axis=0, prepend=totals[:1])
    return np.where(np.isfinite(rise) & (rise > 0), rise, 0.0)
