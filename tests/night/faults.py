"""Faults of a night: what is broken on a node of the test cluster, and what must follow."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# On a node: sends a signal to the rank of this LOCAL_RANK, or to one of its loader's workers.
_TO_RANK = r"""
for p in $(pgrep -f trainer/train.py); do
  grep -q spawn_main "/proc/$p/cmdline" && continue
  tr '\0' '\n' < "/proc/$p/environ" | grep -qx LOCAL_RANK=0 || continue
  kill -"$1" "$p" && exit 0
done
exit 1
"""
_TO_WORKER = 'for p in $(pgrep -f spawn_main); do kill -SEGV "$p" && exit 0; done; exit 1'
_TO_TORCHRUN = 'kill -KILL $(pgrep -o -f "bin/torchrun")'
_REFUSE_SSH = (
    "nft add table inet f; nft add chain inet f in '{ type filter hook input priority 0; }';"
    "nft add rule inet f in tcp dport 22 reject with tcp reset"
)
_SLOW_LINK = "tc qdisc add dev eth0 root tbf rate 20mbit burst 32kb latency 200ms"


@dataclass(frozen=True)
class Fault:
    """One kind of fault."""

    name: str
    inject: Callable[[Any, int], object]  # the night and the number of a node
    ends_attempt: bool  # False: the run must go on in the same attempt
    heal: Callable[[Any, int], object] | None = None
    lasts_s: float = 0.0  # until it is healed
    is_short: bool = True  # a short night may draw it
    needs: str = ""  # a program on this machine


def _damage_newest(night: Any, number: int) -> None:
    """Flip a byte of the newest checkpoint, and kill a rank so that it is read."""
    newest = night.run.checkpoints()[-1].path
    file = max(newest.glob("model/*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 0xFF
    file.write_bytes(data)
    night.on_node(number, _TO_RANK, "KILL")


def _kill_supervisor(night: Any, number: int) -> None:
    """SIGKILL; another one that stands by takes over."""
    night.soractl("supervise")
    holder = json.loads(Path(night.run.supervisor).read_text())
    night.cluster("head", "kill", "-9", str(holder["pid"]))
    night.wait(lambda: night.holder() not in (None, holder["token"]), 120)


FAULTS = (
    Fault("SIGKILL of a rank", lambda night, n: night.on_node(n, _TO_RANK, "KILL"), True),
    Fault("segfault of a rank", lambda night, n: night.on_node(n, _TO_RANK, "SEGV"), True),
    Fault("SIGSTOP of a rank", lambda night, n: night.on_node(n, _TO_RANK, "STOP"), True),
    Fault("loader worker crash", lambda night, n: night.on_node(n, _TO_WORKER), False),
    Fault("SIGKILL of torchrun", lambda night, n: night.on_node(n, _TO_TORCHRUN), False),
    Fault("newest checkpoint damaged", _damage_newest, True),
    Fault("supervisor SIGKILLed", _kill_supervisor, False),
    Fault(
        "ssh refused",
        lambda night, n: night.on_node(n, _REFUSE_SSH),
        False,
        lambda night, n: night.on_node(n, "nft delete table inet f"),
        lasts_s=30.0,
        needs="nft",
    ),
    Fault(
        "sshd deaf",
        lambda night, n: night.cluster("freeze", str(n)),
        False,
        lambda night, n: night.cluster("thaw", str(n)),
        lasts_s=30.0,
    ),
    Fault(
        "packets lost for 60 s",
        lambda night, n: night.cluster("lose", str(n)),
        False,
        lambda night, n: night.cluster("find", str(n)),
        lasts_s=60.0,
        is_short=False,
    ),
    Fault(
        "slow link",
        lambda night, n: night.on_node(n, _SLOW_LINK),
        False,
        lambda night, n: night.on_node(n, "tc qdisc del dev eth0 root"),
        lasts_s=30.0,
        is_short=False,
        needs="tc",
    ),
)
LAST = Fault("node switched off", lambda night, n: night.cluster("off", str(n)), True)


def draw(seed: int, count: int, *, short: bool) -> list[tuple[Fault, int]]:
    """Faults and nodes by a seed; none twice before all were drawn; a node goes off at the end."""
    rng = random.Random(seed)
    known = [fault for fault in FAULTS if fault.is_short or not short]
    drawn: list[Fault] = []
    while len(drawn) < count - (not short):
        left = [fault for fault in known if fault not in drawn] or known
        drawn.append(rng.choice(left))
    drawn += [] if short else [LAST]
    return [(fault, rng.randint(2, 3)) for fault in drawn]  # n1 holds rank 0 and its heartbeat
