"""Looks at the clocks of all nodes over kept connections: one, or one every few seconds."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from soractl.cluster import settings as cluster
from soractl.cluster.settings import ClockPolicy
from soractl.errors import INTERRUPTED, ExitCode, Fault, FaultKind, exit_code_of
from soractl.health import clock_probe
from soractl.health.clock import (
    BAD,
    ClockLook,
    Measured,
    Reading,
    RoundTrip,
    Step,
    Track,
    Verdict,
    judge,
    step_between,
)
from soractl.health.time_daemon import TimeDaemon, parse
from soractl.remote.connections import Connections, Dialogue
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node, NodeSource, find_nodes
from soractl.remote.scripts import script
from soractl.remote.ssh_command import SshFailure

TRIPS = 8  # the shortest of so many counts
AT_ONCE = 4  # nodes that are measured at a time: more would wait for each other here
TURN_S = 1.0  # after which a node is measured though others are, too


@dataclass(frozen=True)
class NodeClock:
    """A node's row: what is known of its clock after the newest look."""

    node: Node
    offset: Measured | None = None
    steps: tuple[Step, ...] = ()
    drift_ppm: Measured | None = None
    slew_ppm: float | None = None
    daemon: TimeDaemon | None = None
    fine: bool = True  # False: the node has no python3, and small steps are not seen
    verdict: Verdict = field(default_factory=Verdict)
    fault: Fault | None = None


@dataclass(frozen=True)
class ClockRound:
    """The clocks of all nodes, looked at once."""

    source: NodeSource
    rows: tuple[NodeClock, ...]
    policy: ClockPolicy
    own_steps: tuple[Step, ...]  # of this machine's clock
    elapsed_s: float

    @property
    def interrupted(self) -> bool:
        """Ctrl-C came before all nodes had answered."""
        return any(row.fault == INTERRUPTED for row in self.rows)

    @property
    def exit_code(self) -> ExitCode:
        """1 where a clock is bad; else as for every command over many nodes."""
        if any(row.verdict.level == BAD for row in self.rows):
            return ExitCode.FAILED
        return exit_code_of(row.fault for row in self.rows)


def watch_clocks(
    hosts: str | None, every_s: float | None, *, deadline_s: float, environ: Mapping[str, str]
) -> Iterator[ClockRound]:
    """One round over all nodes, or one every so many seconds over the same connections."""
    source = find_nodes(hosts, environ=environ)
    settings = cluster.load(source.hostfile)[0]
    with Connections(settings.ssh) as remote:
        clocks = Clocks(remote, settings.clock)
        own, last = [], read_here()
        while True:
            began = time.monotonic()
            rows = clocks.look(source.nodes, deadline_s)
            now = read_here()
            own += [step] if (step := step_between(last, now)) else []
            last = now
            elapsed_s = time.monotonic() - began
            found = ClockRound(source, tuple(rows), settings.clock, tuple(own), elapsed_s)
            yield found
            if every_s is None or found.interrupted:
                return
            time.sleep(max(0.0, every_s - elapsed_s))


class Clocks:
    """The kept programs and tracks of all nodes."""

    def __init__(self, remote: Connections, policy: ClockPolicy) -> None:
        self._remote, self._policy = remote, policy
        self._dialogues: dict[Node, Dialogue] = {}
        self._tracks: dict[Node, Track] = {}
        self._turns = threading.Semaphore(AT_ONCE)

    def look(self, nodes: Sequence[Node], deadline_s: float) -> list[NodeClock]:
        """A row for each node, in their order."""
        return everywhere(
            nodes,
            lambda node: self._row(node, deadline_s),
            lambda node, fault: NodeClock(node, fault=fault),
            deadline_s=deadline_s,
        )

    def _row(self, node: Node, deadline_s: float) -> NodeClock:
        track = self._tracks.setdefault(node, Track())
        try:
            daemon, look = self._ask(node, deadline_s)
        except SshFailure as failure:
            if dialogue := self._dialogues.pop(node, None):
                dialogue.close()
            fault = Fault(FaultKind.UNREACHABLE, str(failure))
            return NodeClock(node, steps=tuple(track.steps), fault=fault)
        track.add(look)
        row = NodeClock(
            node,
            offset=look.offset,
            steps=tuple(track.steps),
            drift_ppm=track.drift_ppm,
            slew_ppm=track.slew_ppm,
            daemon=daemon,
            fine=look.sharpest.raw_ns is not None,
        )
        verdict = judge(look.offset, row.steps, self._policy)
        return NodeClock(**{**vars(row), "verdict": verdict})

    def _ask(self, node: Node, deadline_s: float) -> tuple[TimeDaemon, ClockLook]:
        dialogue = self._dialogues.get(node)
        if dialogue is None:
            dialogue = self._dialogues[node] = self._remote.dialogue(node, program(), deadline_s)
        found = _parsed(dialogue.ask(b"daemon", deadline_s))
        with self._turn():
            trips = tuple(round_trip(dialogue, deadline_s) for _ in range(TRIPS))
        return parse(found), ClockLook(trips, time.monotonic(), str(found.get("boot_id")))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        held = self._turns.acquire(timeout=TURN_S)
        try:
            yield
        finally:
            if held:
                self._turns.release()


def program() -> tuple[str, ...]:
    """The command that answers on a node."""
    room = "soractl.health"
    return ("sh", "-c", script(room, "clock_probe.sh"), "sh", script(room, "clock_probe.py"))


def round_trip(dialogue: Dialogue, within_s: float) -> RoundTrip:
    """One question for the time."""
    began = time.monotonic_ns()  # before the clock, so that no pause between them can hurt
    sent = time.time_ns()
    answer = dialogue.ask(b"time", within_s)
    took = time.monotonic_ns() - began
    try:
        return RoundTrip(sent, took, Reading(**json.loads(answer)))
    except (ValueError, TypeError):
        raise SshFailure(f"no times: {answer[:80]!r}") from None


def read_here() -> Reading:
    """The clocks of this machine."""
    return Reading(**clock_probe.read_time())


def _parsed(answer: bytes) -> dict[str, object]:
    try:
        found = json.loads(answer)
    except ValueError:
        raise SshFailure(f"no state of the clock: {answer[:80]!r}") from None
    if not isinstance(found, dict):
        raise SshFailure(f"no state of the clock: {answer[:80]!r}")
    return found
