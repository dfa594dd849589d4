"""`soractl health --replay`: one recorded micro step on every GPU, compared by bits and by seconds.

A GPU that computes other numbers than its equals corrupts a training without a word; one that takes
longer holds all others up. Ranks without GPUs do the same with a small network.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from soractl.doctor.measure_pairs import MEASURE_S, START_S, Bench, refuse_if_busy
from soractl.errors import ExitCode
from soractl.launch.prepare import LaunchOptions, refuse_unnamed, site_of
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections, Dialogue
from soractl.remote.ssh_command import SshFailure

ARCHS = {"cuda": "STDiT3-XL/2", "cpu": "STDiT3-smoke"}
SLOW = {"cuda": 1.2, "cpu": 4.0}  # times the median; a host's cores have other work too
TIMES = 5

State = Literal["good", "other bits", "slow", "unknown"]


@dataclass(frozen=True)
class Replayed:
    """A rank's answer, or why there is none."""

    node: str
    rank: int
    device: str = ""
    digest: str = ""
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Replay:
    """All ranks, judged."""

    origin: str
    kind: str  # cuda or cpu
    states: Sequence[tuple[Replayed, State]]
    elapsed_s: float = 0.0

    @property
    def exit_code(self) -> ExitCode:
        """1 where a rank is wrong, slow or without an answer."""
        is_good = all(state == "good" for _, state in self.states)
        return ExitCode.OK if is_good else ExitCode.FAILED


def judge(answers: Sequence[Replayed], kind: str) -> list[tuple[Replayed, State]]:
    """Each rank beside those with the same device; bits that half of them have are right.

    Where no digest has a majority, all are unknown: somebody is wrong, and nobody says who.
    """
    same: dict[str, list[Replayed]] = {}
    for answer in answers:
        same.setdefault(answer.device, []).append(answer)
    return [(answer, _state(answer, same[answer.device], kind)) for answer in answers]


def _state(answer: Replayed, equals: Sequence[Replayed], kind: str) -> State:
    if answer.error:
        return "unknown"
    [(digest, count)] = Counter(other.digest for other in equals).most_common(1)
    if count * 2 <= len(equals) and len(equals) > 1:
        return "unknown"
    if answer.digest != digest or " " in digest:
        return "other bits"
    usual = statistics.median(other.seconds for other in equals)
    return "slow" if answer.seconds > SLOW[kind] * usual else "good"


def replay(hosts: str | None, runs: str, environ: Mapping[str, str]) -> Replay:
    """The step on all ranks at once; SoractlError where GPUs are in use or torch does not start."""
    site = site_of(LaunchOptions(runs=runs, hostfile=hosts), environ)
    refuse_unnamed(site, "health --replay")
    plan = site.plan(site.workdir / runs / "replay", StartPoint("fresh"))
    began = time.monotonic()
    with Connections(site.cluster.ssh) as remote:
        refuse_if_busy(plan, remote)
        bench = Bench(plan, site, remote, program="trainer.step_replay")
        answers = replayed(bench)
    states = judge(answers, bench.device)
    return Replay(site.source.origin, bench.device, states, time.monotonic() - began)


def replayed(bench: Bench) -> list[Replayed]:
    """Answers of all ranks of a bench, which is started."""
    bench.start()
    ranks = [
        (node, number, dialogue)
        for node, dialogues in bench.ranks.items()
        for number, dialogue in enumerate(dialogues)
    ]
    with ThreadPoolExecutor(len(ranks)) as pool:
        asked = [pool.submit(_ask, *rank, kind=bench.device) for rank in ranks]
        return [one.result() for one in asked]


def _ask(node: str, number: int, rank: Dialogue, *, kind: str) -> Replayed:
    question = {
        "arch": ARCHS[kind],
        "device": f"cuda:{number}" if kind == "cuda" else "cpu",
        "times": TIMES,
    }
    try:
        answer = json.loads(rank.ask(json.dumps(question).encode(), START_S + MEASURE_S))
    except (SshFailure, ValueError) as failure:
        return Replayed(node, number, error=str(failure))
    return Replayed(node, number, **answer)
