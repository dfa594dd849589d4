"""Collection from all nodes: a probe on a kept connection each, asked again and again.

Each node has a thread and one outstanding look, so a node that hangs holds up no other. Clocks are
measured once a minute by the same programs as for `soractl clock`, over the same connections.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from soractl.cluster.settings import ClockPolicy
from soractl.errors import Fault, FaultKind
from soractl.health.clock_watch import Clocks, NodeClock
from soractl.monitor.sample import (
    GPU_FIELDS,
    OPTIONAL_FIELDS,
    Sample,
    Values,
    parse,
    refused_field,
    values,
    with_names,
)
from soractl.remote.connections import Connections, Dialogue
from soractl.remote.deadline import Deadline, DeadlinePassed
from soractl.remote.nodes import Node
from soractl.remote.scripts import script
from soractl.remote.ssh_command import SshFailure

ANSWER_S = 10.0  # a look may take so long before its node counts as silent
MOST_PAUSE_S = 60.0  # between tries to reach a node
CLOCKS_EVERY_S = 60.0
GRACE_S = 1.0  # for the looks of one moment to come together
OLD_AFTER = 3  # periods without an answer of nvidia-smi
STOP_S = 2.0
ENDED = ("Z", "X", "?")  # states of a process that prints no more


@dataclass(frozen=True)
class NodeLook:
    """A node at a moment: its numbers, or the fault that hides them."""

    node: Node
    unix_s: int
    values: Values | None = None
    fault: Fault | None = None


@dataclass(frozen=True)
class Round:
    """Looks that came in since the round before."""

    unix_s: int
    looks: tuple[NodeLook, ...]
    clocks: tuple[NodeClock, ...] = ()


class NodeProbe:
    """The probe of one node: started when it is asked, started anew when it has failed."""

    def __init__(self, node: Node, remote: Connections, every_s: float, root: str = "") -> None:
        self._node, self._remote, self._every_s, self._root = node, remote, every_s, root
        self._fields: tuple[str, ...] = GPU_FIELDS
        self._dialogue: Dialogue | None = None
        self._before: Sample | None = None
        self._fault: Fault | None = None
        self._failures = 0
        self._not_before_s = 0.0

    def look(self, unix_s: int) -> NodeLook:
        """The node now; a node that failed is left alone for a while, ever longer."""
        if time.monotonic() < self._not_before_s:
            return NodeLook(self._node, unix_s, fault=self._fault)
        try:
            sample = self._ask()
        except (SshFailure, OSError) as failure:  # OSError: this machine starts no process
            self._fail(str(failure))
            return NodeLook(self._node, unix_s, fault=self._fault)
        self._failures, self._fault = 0, None
        found = values(self._before, sample, OLD_AFTER * max(self._every_s, 1.0))
        self._before = sample
        self._restart_where_nvidia_smi_ended(sample)
        return NodeLook(self._node, unix_s, values=found)

    def _ask(self) -> Sample:
        within_s = max(self._every_s, ANSWER_S)
        if self._dialogue is None:
            self._dialogue = self._remote.dialogue(self._node, self._program(), within_s)
        line = self._dialogue.ask(b"look", within_s).decode(errors="replace")
        try:
            return with_names(parse(line), self._fields)
        except (ValueError, IndexError):
            raise SshFailure(f"the node's shell printed: {line[:120]!r}") from None

    def _program(self) -> tuple[str, ...]:
        text = script("soractl.monitor", "probe.sh")
        every_ms = str(round(1000 * self._every_s))
        return ("sh", "-c", text, "sh", every_ms, ",".join(self._fields), self._root)

    def _fail(self, reason: str) -> None:
        self._end()
        self._before = None
        self._failures += 1
        self._fault = Fault(FaultKind.UNREACHABLE, reason)
        self._pause(min(MOST_PAUSE_S, self._every_s * 2**self._failures))

    def _restart_where_nvidia_smi_ended(self, sample: Sample) -> None:
        """A field that an older driver refuses is asked for no more; else it is tried later."""
        if sample.smi not in ENDED:
            return
        refused = refused_field(sample.odd)
        if refused in OPTIONAL_FIELDS and refused in self._fields:
            self._fields = tuple(name for name in self._fields if name != refused)
            self._end()
        elif self._not_before_s + MOST_PAUSE_S < time.monotonic():
            self._not_before_s = time.monotonic()
            self._end()

    def _pause(self, seconds: float) -> None:
        self._not_before_s = time.monotonic() + seconds

    def _end(self) -> None:
        if self._dialogue is not None:
            with suppress(OSError):
                self._dialogue.close()
        self._dialogue = None


class Collector:
    """All nodes' probes at work, from `start` until `stop`."""

    def __init__(
        self, nodes: Sequence[Node], remote: Connections, every_s: float, policy: ClockPolicy
    ) -> None:
        self._nodes, self._every_s = nodes, every_s
        self._remote, self._policy = remote, policy
        self._looks: queue.SimpleQueue[NodeLook] = queue.SimpleQueue()
        self._clocks: queue.SimpleQueue[NodeClock] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin; threads end with the process at the latest."""
        probes = [NodeProbe(node, self._remote, self._every_s) for node in self._nodes]
        self._threads = [
            *(threading.Thread(target=self._watch, args=(probe,), daemon=True) for probe in probes),
            threading.Thread(target=self._measure_clocks, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """No further looks; what is under way has a moment to end."""
        self._stopped.set()
        deadline = Deadline(STOP_S)
        with suppress(DeadlinePassed):
            for thread in self._threads:
                thread.join(deadline.left())

    def rounds(self) -> Iterator[Round]:
        """Rounds of looks, about every period: at once when all nodes have answered."""
        while not self._stopped.is_set():
            looks = self._gather()
            if looks:
                clocks = tuple(_drained(self._clocks))
                yield Round(max(look.unix_s for look in looks), tuple(looks), clocks)

    def _gather(self) -> list[NodeLook]:
        looks: list[NodeLook] = []
        deadline_s = None
        while len({look.node for look in looks}) < len(self._nodes):
            left_s = 0.5 if deadline_s is None else deadline_s - time.monotonic()
            if left_s <= 0:
                break
            try:
                looks.append(self._looks.get(timeout=left_s))
            except queue.Empty:
                if deadline_s is None:  # nothing yet: perhaps it was stopped
                    break
            if deadline_s is None:
                deadline_s = time.monotonic() + min(GRACE_S, self._every_s / 2)
        return looks

    def _watch(self, probe: NodeProbe) -> None:
        while not self._stopped.is_set():
            unix_s = round(time.time() / self._every_s) * self._every_s
            self._looks.put(probe.look(round(unix_s)))
            self._stopped.wait(self._every_s - time.time() % self._every_s)

    def _measure_clocks(self) -> None:
        clocks = Clocks(self._remote, self._policy)
        while not self._stopped.is_set():
            for row in clocks.look(self._nodes, ANSWER_S):
                self._clocks.put(row)
            self._stopped.wait(CLOCKS_EVERY_S)


def _drained(clocks: "queue.SimpleQueue[NodeClock]") -> Iterator[NodeClock]:
    with suppress(queue.Empty):
        while True:
            yield clocks.get_nowait()
