"""Facts of a node that may explain a hang: kernel messages, clock, links that lose packets."""

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soractl.errors import Fault
from soractl.health.clock import Measured
from soractl.remote.fan_out import everywhere, run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script, sections, understood
from soractl.terminal import text

FACTS_S = 9.0
SSH = 22

_END = r"\[?(?:::ffff:)?([^\]\s]+?)\]?:(\d+)"
_CONNECTION = re.compile(rf"^\d+ +\d+ +{_END} +{_END}")
_BACKOFF = re.compile(r"\b(?:backoff:|retrans:)(\d+)")


@dataclass(frozen=True)
class Link:
    """Packets that one node sends again and again to another."""

    node: str
    peer: str  # the node's name, else its address
    connections: int

    def __str__(self) -> str:
        """`n1 -> n3: packets are lost on 2 connections`."""
        connections = text.count(self.connections, "connection")
        return f"{self.node} -> {self.peer}: packets are lost on {connections}"


@dataclass(frozen=True)
class NodeFacts:
    """Output of one node, by section; see `evidence.sh`."""

    node: str
    texts: Mapping[str, str] = field(default_factory=dict)
    fault: Fault | None = None
    clock_unix_s: float | None = None  # the node's own, when it answered

    @property
    def kernel(self) -> tuple[str, ...]:
        """Messages about GPUs, memory, disks and links, oldest first."""
        return tuple(self.texts.get("kernel", "").splitlines())

    @property
    def full_disks(self) -> tuple[str, ...]:
        """Mount points without room for bytes or files, of those that a run writes to."""
        rows = [line.split() for line in self.texts.get("disk", "").splitlines()]
        full = (row[5] for row in rows if len(row) == 6 and row[1] != "0" and row[3] == "0")
        return tuple(dict.fromkeys(full))

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its own addresses."""
        return tuple(self.texts.get("addresses", "").split())


def ask(nodes: Sequence[Node], folder: Path, remote: Remote) -> list[NodeFacts]:
    """Facts of all nodes; `folder` is the run's."""
    program = f"folder={shlex.quote(str(folder))}\n" + script("soractl.diagnosis", "evidence.sh")
    request = Request(("bash", "-s"), program)
    results = run_everywhere(nodes, lambda _: request, remote, deadline_s=FACTS_S)
    return [facts_of(result) for result in results]


def facts_of(result: NodeResult) -> NodeFacts:
    """The answer of `evidence.sh`."""
    found = sections(result.stdout)
    texts = {name: printed for name, (printed, _) in found.items()}
    clock_unix_s = found["clock"][1] if "clock" in found else None
    return NodeFacts(result.node.name, texts, result.problem, clock_unix_s)


def bad_links(facts: Sequence[NodeFacts]) -> list[Link]:
    """Links on which connections, other than ssh, wait to send again; by the answers of `ss`."""
    names = {address: one.node for one in facts for address in one.addresses}
    counts: dict[tuple[str, str], int] = {}
    for one in facts:
        for peer in _peers_sent_to_again(one.texts.get("sockets", "")):
            link = one.node, names.get(peer, peer)
            counts[link] = counts.get(link, 0) + 1
    return [Link(*link, count) for link, count in sorted(counts.items())]


def ask_offsets(nodes: Sequence[Node], remote: Remote) -> dict[str, Measured]:
    """Seconds by which the clocks of nodes that answer are ahead, within half a round trip."""

    def measure(node: Node) -> Measured | None:
        before, began_s = time.time(), time.monotonic()
        result = remote(node, Request(("date", "+%s.%N")), FACTS_S)
        half_s = (time.monotonic() - began_s) / 2
        with understood():
            return Measured(float(result.stdout) - before - half_s, half_s) if result.ok else None

    found = everywhere(nodes, measure, lambda node, fault: None, deadline_s=FACTS_S)
    names = [node.name for node in nodes]
    return {name: one for name, one in zip(names, found, strict=True) if one is not None}


def _peers_sent_to_again(sockets: str) -> list[str]:
    """Peers of connections whose line of numbers says so; that line follows the addresses."""
    peers, connection = [], None
    for line in sockets.splitlines():
        if found := _CONNECTION.match(line):
            connection = found
        elif connection and str(SSH) not in (connection[2], connection[4]) and _sends_again(line):
            peers.append(connection[3])
    return peers


def _sends_again(line: str) -> bool:
    """`backoff:N` is there while a packet is sent again; `retrans:N/M` has N under way."""
    return any(int(number) > 0 for number in _BACKOFF.findall(line))
