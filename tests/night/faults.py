"""Faults of a night: how each is made and ended, and what must follow from it."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from soractl.runs.events import EventKind
from tests.night.stand import CLOCK, FragileStand

STEPS_A_FAULT = 12  # beside one for each second that it lasts
ENDS = frozenset({EventKind.HUNG, EventKind.CRASHED, EventKind.LOST})

# On a node: sends a signal to its rank.
TO_RANK = r"""
for p in $(pgrep -f trainer/train.py); do
  grep -q spawn_main "/proc/$p/cmdline" && continue
  tr '\0' '\n' < "/proc/$p/environ" | grep -qx LOCAL_RANK=0 || continue
  kill -"$1" "$p" && exit 0
done
exit 1
"""
_TO_WORKER = 'for p in $(pgrep -f "[s]pawn_main"); do kill -SEGV "$p" && exit 0; done; exit 1'
_TO_TORCHRUN = 'kill -KILL $(pgrep -o -f "bin/torchrun")'
# The brackets keep pgrep from finding the shell that runs it.
_TO_SERVER = 'kill -"$1" $(pgrep -f "[p]ass_through.py")'
_REFUSE_SSH = (
    "nft add table inet f; nft add chain inet f in '{ type filter hook input priority 0; }';"
    "nft add rule inet f in tcp dport 22 reject with tcp reset"
)
_SLOW_LINK = "tc qdisc add dev eth0 root tbf rate 20mbit burst 32kb latency 200ms"
_SMALL_DISK = 'mount -t tmpfs -o size=64k tmpfs "$1"'
_SET_CLOCK = 'echo "$1" > "$2"'
Act = Callable[[FragileStand, int], object]


def _nothing(stand: FragileStand, number: int) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    inject: Act  # on the node of this number
    heal: Act = _nothing
    lasts_s: float = 0.0  # until it is healed; of one that ends attempts, after the kill
    takes_s: float = 0.0  # to make it, while the run trains
    halts: bool = False  # no step is made while it lasts
    verdict: EventKind | None = None  # None: the attempt must go on
    attempts: int = 1  # that it ends
    cause: str = ""  # in the cause that `why` names, or in its words
    story: tuple[EventKind, ...] = ()  # events that name the node
    others: tuple[EventKind, ...] = ()  # and some that name none
    on: tuple[int, ...] = (2, 3)  # nodes; n1 holds rank 0, by whose files the night measures


def _signal(name: str) -> Act:
    return lambda stand, n: stand.on_node(n, TO_RANK, name)


def _server(name: str) -> Act:
    return lambda stand, n: stand.on_node(n, _TO_SERVER, name)


def _damage_newest(stand: FragileStand, number: int) -> None:
    """Flip a byte of the newest checkpoint, and kill a rank so that it is read."""
    newest = stand.run.checkpoints()[-1].path
    file = max(newest.glob("model/*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 0xFF
    file.write_bytes(data)
    stand.on_node(number, TO_RANK, "KILL")


def _kill_supervisor(stand: FragileStand, number: int) -> None:
    """Another one, which stands by, takes over."""
    before = stand.holder()
    assert before is not None
    stand.soractl("supervise")
    stand.cluster("head", "kill", "-9", str(before.pid))
    stand.wait(lambda: (now := stand.holder()) and now.token != before.token)


def _loop_in_gc(stand: FragileStand, number: int) -> None:
    plan = {"kind": "gc", "seconds": 10_000, "after": 3}
    draft = stand.plants / "draft"
    draft.write_text(json.dumps(plan))
    draft.rename(stand.plants / f"plant-{stand.nodes().index(number)}.json")


def _fill_disk(stand: FragileStand, number: int) -> None:
    """What this node writes of the next checkpoint finds no room."""
    stand.on_node(number, _SMALL_DISK, str(stand.run.checkpoints_folder))
    log = stand.attempt().node_log("n1")
    stand.wait(lambda: "No space left on device" in log.read_text())


FAULTS = (
    Fault(
        "SIGKILL of a rank",
        _signal("KILL"),
        verdict=EventKind.CRASHED,
        cause="killed",
        story=(EventKind.CRASHED,),
    ),
    Fault(
        "SIGSTOP of a rank",
        _signal("STOP"),
        verdict=EventKind.HUNG,
        cause="waited for one rank",
        story=(EventKind.EVIDENCE,),
    ),
    Fault("crash of a loader's worker", lambda stand, n: stand.on_node(n, _TO_WORKER)),
    Fault(
        "SIGKILL of torchrun",
        lambda stand, n: stand.on_node(n, _TO_TORCHRUN),
        story=(EventKind.ORPHANED,),
    ),
    Fault(
        "node off",
        lambda stand, n: stand.cluster("off", str(n)),
        lambda stand, n: stand.switch_on(n),
        verdict=EventKind.LOST,
        cause="a node was lost|processes of a node ended",
        story=(EventKind.LOST,),
    ),
    Fault(
        "packets lost for 60 s",
        lambda stand, n: stand.cluster("lose", str(n)),
        lambda stand, n: stand.cluster("find", str(n)),
        lasts_s=60.0,
        halts=True,
        story=(EventKind.SUSPECT,),
    ),
    Fault(
        "slow link",
        lambda stand, n: stand.on_node(n, _SLOW_LINK),
        lambda stand, n: stand.on_node(n, "tc qdisc del dev eth0 root"),
        lasts_s=30.0,
    ),
    Fault(
        "full disk amid a save",
        _fill_disk,
        lambda stand, n: stand.on_node(n, 'umount -l "$1"', str(stand.run.checkpoints_folder)),
        others=(EventKind.SAVE_GIVEN_UP,),
    ),
    Fault(
        "newest checkpoint damaged",
        _damage_newest,
        verdict=EventKind.CRASHED,
        attempts=2,
        cause="damaged",
    ),
    Fault(
        "SIGKILL of the supervisor",
        _kill_supervisor,
        takes_s=45.0,  # the lease holds for thirty
        others=(EventKind.SUPERVISED,),
    ),
    Fault(
        "clock step",
        lambda stand, n: stand.on_node(n, _SET_CLOCK, "+300s" if n == 1 else "-300s", CLOCK),
        lambda stand, n: stand.on_node(n, _SET_CLOCK, "+0s", CLOCK),
        lasts_s=20.0,
        on=(1, 2, 3),
    ),
    Fault(
        "stalled file system",
        _server("STOP"),
        _server("CONT"),
        verdict=EventKind.HUNG,
        cause="waited for one rank",
        story=(EventKind.EVIDENCE,),
    ),
    Fault(
        "ssh refused",
        lambda stand, n: stand.on_node(n, _REFUSE_SSH),
        lambda stand, n: stand.on_node(n, "nft delete table inet f"),
        lasts_s=30.0,
        story=(EventKind.SUSPECT,),
    ),
    Fault(
        "loop of garbage collections",
        _loop_in_gc,
        verdict=EventKind.HUNG,
        cause="waited for one rank",
        story=(EventKind.EVIDENCE,),
    ),
)


def steps_during(faults: Sequence[Fault]) -> int:
    """More steps than a run makes while it suffers these faults, at a step a second."""
    lasting_s = sum(fault.takes_s + (not fault.halts) * fault.lasts_s for fault in faults)
    return STEPS_A_FAULT * len(faults) + int(lasting_s)


def draw(seed: int, count: int) -> list[tuple[Fault, int]]:
    """Faults and nodes by a seed; none twice before all were drawn."""
    rng = random.Random(seed)
    drawn: list[Fault] = []
    while len(drawn) < count:
        drawn += rng.sample(FAULTS, min(len(FAULTS), count - len(drawn)))
    return [(fault, rng.choice(fault.on)) for fault in drawn]
