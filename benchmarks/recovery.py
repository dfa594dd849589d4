"""Seconds that a run is away after a failure: by the supervisor, by torchrun and by a shell loop.

    python -m benchmarks.recovery [-n 10] [--only WORDS]

The smoke model trains on three nodes of tests/cluster, one rank each. The same rank is killed n
times, each time when the run has saved again. The supervisor is timed by its own events, the start
of processes by the kernel, the first step by metrics.jsonl. torchrun has an elastic rendezvous; the
loop starts each node's script, as soractl wrote it, again a second after its end. Neither sees a
stopped rank or a node that is off before the collective timeout: the supervisor alone is timed.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from soractl.runs.events import EventKind
from tests.night.faults import ENDS, TO_RANK
from tests.night.stand import REPOSITORY, SETTINGS, Stand

GUILTY = 2  # the number of the node
PHASES = ("detect", "evidence", "kill", "choose", "start", "first step")
# Else torchrun's agents keep one store over restarts, and new ranks find addresses of the last ones
# in it: no start succeeds any more (pytorch#135712, again so in torch 2.13).
NEW_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
Times = dict[str, float]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=10, help="recoveries of each kind")
    parser.add_argument("--only", default="", help="part of a kind's name")
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("benchmarks/recovery.py: left out, only root can start the cluster")
        return
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.platform()}", flush=True)
    for name, measure in KINDS.items():
        if options.only in name:
            began = os.getloadavg()[0]
            found = measure(options.n)
            load = f"load {began:.0f} to {os.getloadavg()[0]:.0f}"
            print(f"\n{name}, medians of {len(found)}, {load}", flush=True)
            for phase in found[0]:
                values = sorted(times[phase] for times in found)
                span = f"{values[0]:.1f} to {values[-1]:.1f}"
                print(f"  {phase:24} {statistics.median(values):6.1f} s  ({span})", flush=True)


def supervised(
    fault: Callable[[Stand], object], *, spares: int = 0
) -> Callable[[int], list[Times]]:
    """Measure recoveries by the supervisor."""

    def measure(count: int) -> list[Times]:
        with tempfile.TemporaryDirectory() as name, Stand(Path(name), spares=spares) as stand:
            stand.launch(100_000)
            found = []
            for _ in range(count):
                attempt = stand.attempt().number
                stand.trains(attempt)
                began, known = time.time(), len(stand.events())
                fault(stand)
                stand.wait(lambda n=attempt: stand.step()[0] > n)
                found.append(_of_supervisor(stand, began, known))
                if spares:
                    stand.switch_on(GUILTY)
                    _back_on_first_nodes(stand)
            return found

    return measure


def _of_supervisor(stand: Stand, began: float, known: int) -> Times:
    events = stand.events()[known:]
    at = {event.kind: event.time_unix_s for event in reversed(events)}
    verdict = min(at[kind] for kind in ENDS if kind in at)
    plan = json.loads(stand.attempt().plan.read_text())
    started, first_step = _started_and_first_step(stand)
    cuts = (
        *(began, verdict, at.get(EventKind.EVIDENCE, verdict), at[EventKind.KILLED]),
        *(plan["started_unix_s"], started, first_step),
    )
    phases = zip(PHASES, cuts, cuts[1:], strict=False)
    return {
        **{phase: end - begin for phase, begin, end in phases},
        "verdict to processes": started - verdict,
        "failure to first step": first_step - began,
    }


def _back_on_first_nodes(stand: Stand) -> None:
    """The next failure is again that of a node with a spare beside it."""
    attempt = stand.attempt().number
    stand.trains(attempt)
    stand.on_node(3, TO_RANK, "KILL")
    stand.wait(lambda: stand.step()[0] > attempt)
    stand.soractl("nodes", "--lift", "n3")


def restarted(start: Callable[[Stand, int], object]) -> Callable[[int], list[Times]]:
    """Measure recoveries by something that is started on each node in place of its script."""

    def measure(count: int) -> list[Times]:
        with tempfile.TemporaryDirectory() as name, Stand(Path(name)) as stand:
            _stop_at_a_checkpoint(stand)
            for number in stand.hosts:
                start(stand, number)
            found = []
            stand.wait(lambda: len(_ranks(stand)) == len(stand.hosts))
            for _ in range(count):
                _, first = _started_and_first_step(stand)
                stand.wait(lambda after=first: stand.run.metrics.stat().st_mtime > after + 3)
                began = time.time()
                stand.on_node(GUILTY, TO_RANK, "KILL")
                stand.wait(lambda at=began: _all_since(stand, at))
                started, first_step = _started_and_first_step(stand)
                found.append(
                    {
                        "failure to processes": started - began,
                        "first step": first_step - started,
                        "failure to first step": first_step - began,
                    }
                )
            return found

    return measure


def _stop_at_a_checkpoint(stand: Stand) -> None:
    """An attempt's folder that goes on from a checkpoint, and no process of it."""
    settings = [word for one in (*SETTINGS, "trainer.max_steps=100000") for word in ("--set", one)]
    stand.soractl("launch", "smoke", "--detach", *settings)
    stand.trains(1)
    stand.soractl("kill")
    stand.soractl("resume", "latest", "--detach")
    stand.soractl("kill", "--grace", "0.5")


def _torchrun(stand: Stand, number: int) -> None:
    plan = json.loads(stand.attempt().plan.read_text())
    environment = {**plan["nodes"][number - 1]["environment"], **NEW_STORE}
    command = [
        *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
        *("torchrun", "--nnodes=3", "--nproc-per-node=1", "--max-restarts=99"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=n1:29600", "--rdzv-id=bench"),
        *(str(REPOSITORY / "trainer" / "train.py"), str(stand.run.path)),
    ]
    _in_background(stand, number, shlex.join(command))


def _loop(stand: Stand, number: int) -> None:
    script = shlex.quote(str(stand.attempt().node_script(f"n{number}")))
    _in_background(stand, number, f"while :; do bash {script}; sleep 1; done")


def _in_background(stand: Stand, number: int, command: str) -> None:
    log = stand.folder / f"n{number}.log"
    script = 'setsid bash -c "$1" < /dev/null > "$2" 2>&1 &'
    stand.on_node(number, script, command, str(log))


def _ranks(stand: Stand) -> list[float]:
    """Starts of the living ranks' processes, as Unix times."""
    found = []
    up_s = float(Path("/proc/uptime").read_text().split()[0])
    mark = f"SORACTL_RUN_ID={stand.run.path}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if not any(word.endswith(b"trainer/train.py") for word in words[1:3]):
                continue
            if b"torchrun" in b" ".join(words[:3]) or b"RANK=" not in (
                environ := (process / "environ").read_bytes()
            ):
                continue
            ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
        except OSError:
            continue
        if mark in environ:
            found.append(time.time() - up_s + ticks / os.sysconf("SC_CLK_TCK"))
    return found


def _all_since(stand: Stand, unix_s: float) -> bool:
    starts = _ranks(stand)
    return len(starts) == len(stand.hosts) and min(starts) > unix_s - 0.02


def _started_and_first_step(stand: Stand) -> tuple[float, float]:
    """Moments of the last rank's start and of the first step, waited for."""
    started = max(_ranks(stand))

    def first() -> float | None:
        lines = stand.run.metrics.read_text().splitlines()
        times = [json.loads(line)["time_unix_s"] for line in lines]
        return min((one for one in times if one > started), default=None)

    stand.wait(first)
    return started, first() or 0.0


KINDS = {
    "supervisor: a rank is killed": supervised(
        lambda stand: stand.on_node(GUILTY, TO_RANK, "KILL")
    ),
    "supervisor: a rank is stopped": supervised(
        lambda stand: stand.on_node(GUILTY, TO_RANK, "STOP")
    ),
    "supervisor: a node goes off, a spare takes its place": supervised(
        lambda stand: stand.cluster("off", str(GUILTY)), spares=1
    ),
    "torchrun --max-restarts: a rank is killed": restarted(_torchrun),
    "shell loop: a rank is killed": restarted(_loop),
}

if __name__ == "__main__":
    sys.exit(main())
