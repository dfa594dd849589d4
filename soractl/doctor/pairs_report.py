"""Lines and JSON of `health --pairs`."""

from collections.abc import Iterator
from typing import Any

from soractl.doctor.measure_pairs import Pairs
from soractl.doctor.pairs import Pair, slow_pairs
from soractl.remote.folding import fold_names
from soractl.terminal import text
from soractl.terminal.table import Table

HEADERS = ("PAIR", "GB/s", "VERDICT")
PORTS_HEADERS = ("PAIR", "GB/s", "OF PORTS", "VERDICT")
# An all-reduce of two nodes reaches about 90 % of what their ports carry: Azure's images ask for
# 360 of 400 GB/s (azurehpc-health-checks, conf/nd96isr_h200_v5.conf).
LEAST_OF_PORTS = 0.5


def lines(found: Pairs) -> Table:
    """A row for each pair that was measured, the slowest first."""
    slow = slow_pairs(found.speeds)
    rows = sorted(found.speeds.items(), key=lambda item: item[1])
    shares = found.of_ports
    cells = [
        (
            *(_name(pair), _speed(speed)),
            *([f"{shares[pair]:.0%}" if pair in shares else "-"] if shares else []),
            _verdict(found, pair),
        )
        for pair, speed in rows
    ]
    styles = tuple("red" if pair in slow else "" for pair, _ in rows)
    return Table(PORTS_HEADERS if shares else HEADERS, cells, 1, styles)


def notes(found: Pairs) -> Iterator[str]:
    """Nodes and links to blame, and the count."""
    if found.nodes:
        yield (
            f"slow with every partner: {fold_names(found.nodes)}; look at its ports with "
            "`soractl health --only ib`, then at cables and switch ports"
        )
    for pair in found.links:
        yield f"slow together, and not with others: {_name(pair)}; look at the way between them"
    best = max(found.of_ports.values(), default=1.0)
    if best < LEAST_OF_PORTS:
        yield (
            f"the fastest pair reaches {best:.0%} of what its ports carry, so all may be slow: "
            "`soractl env check` looks at what NCCL uses"
        )
    pairs = text.count(len(found.speeds), "pair")
    slow = len(slow_pairs(found.speeds))
    yield f"{found.origin}: {slow} slow of {pairs} in {found.elapsed_s:.1f} s"


def as_json(found: Pairs) -> dict[str, Any]:
    """All of it."""
    slow = slow_pairs(found.speeds)
    return {
        "elapsed_s": found.elapsed_s,
        "slow_nodes": found.nodes,
        "pairs": [
            {
                "nodes": list(pair),
                "bytes_per_s": speed or None,
                "ports_bytes_per_s": found.carried.get(pair) or None,
                "slow": pair in slow,
                "error": found.errors.get(pair),
            }
            for pair, speed in found.speeds.items()
        ],
    }


def _name(pair: Pair) -> str:
    return " - ".join(pair)


def _speed(bytes_per_s: float) -> str:
    """In GB/s: `4.10`; what is far below has two digits, `0.0024`, and nothing is `0.00`."""
    is_small = 0 < bytes_per_s < 1e8
    return f"{bytes_per_s / 1e9:.2g}" if is_small else f"{bytes_per_s / 1e9:.2f}"


def _verdict(found: Pairs, pair: Pair) -> str:
    if error := found.errors.get(pair):
        return error
    return "slow" if pair in slow_pairs(found.speeds) else "good"
