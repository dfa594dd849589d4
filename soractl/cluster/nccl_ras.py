"""NCCL RAS: the state of NCCL's communicators, asked of one process of a node over TCP.

NCCL >= 2.28 answers on 127.0.0.1:28028 (NCCL_RAS_ADDR) from outside the process, also while ranks
hang. Protocol: NVIDIA, "NCCL RAS", https://docs.nvidia.com/deeplearning/nccl/user-guide.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# NCCL 2.28.9 leaves out the comma between entries of `missing_ranks`.
_MISSING_COMMA = re.compile(r"\}(\s*)\{")


@dataclass(frozen=True)
class RasRank:
    """One rank of a communicator."""

    rank: int
    host: str
    pid: int
    counts: Mapping[str, int]  # launched collectives, by kind


@dataclass(frozen=True)
class Communicator:
    """One of NCCL's communicators."""

    hash: str
    size: int
    ranks: tuple[RasRank, ...]
    missing: tuple[int, ...]  # ranks that RAS could not ask

    @property
    def lagging(self) -> tuple[RasRank, ...]:
        """The ranks that launched fewer collectives than others; none when all are equal.

        In a single report that is normal: fast ranks run ahead. Reports that stay so are a sign.
        """
        place = {rank.rank: sum(rank.counts.values()) for rank in self.ranks}
        if len(set(place.values())) < 2:
            return ()
        least = min(place.values())
        return tuple(rank for rank in self.ranks if place[rank.rank] == least)


def parse(answer: str) -> tuple[Communicator, ...] | None:
    """The communicators of a RAS answer in JSON; None if it is no such answer."""
    begin = answer.find("{")
    try:
        found = json.loads(_MISSING_COMMA.sub(r"},\1{", answer[begin:]))
        return tuple(_communicator(values) for values in found["communicators"])
    except (ValueError, KeyError, TypeError):
        return None


def frozen(reports: Sequence[tuple[Communicator, ...]]) -> bool:
    """The counts of several reports, over some 20 s, are all the same, and there are some."""
    return len(reports) > 1 and bool(reports[0]) and all(one == reports[0] for one in reports)


def _communicator(values: Mapping[str, Any]) -> Communicator:
    return Communicator(
        hash=str(values["hash"]),
        size=int(values["size"]),
        ranks=tuple(
            RasRank(int(r["rank"]), str(r["host"]), int(r["pid"]), r["collective_counts"])
            for r in values["ranks"]
        ),
        missing=tuple(int(rank["rank"]) for rank in values["missing_ranks"]),
    )
