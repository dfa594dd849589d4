"""`soractl health --pairs`: all-reduces between nodes in two rounds of pairs, by torch there."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from soractl.cluster.gpus import read_gpus
from soractl.cluster.node_python import python_on
from soractl.doctor.pairs import Pair, first_round, second_round, slow_nodes, slow_pairs
from soractl.errors import ExitCode, SoractlError, exit_code_of
from soractl.launch.plan import LaunchPlan, NodePlan
from soractl.launch.prepare import LaunchOptions, Site, refuse_unnamed, site_of
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections, Dialogue
from soractl.remote.folding import fold_names
from soractl.remote.ssh_command import SshFailure

START_S = 120.0  # torch loads
MEASURE_S = 60.0
BYTES = {"cuda": 2**28, "cpu": 2**20}
TIMES = 3


@dataclass(frozen=True)
class Pairs:
    """Speeds of the pairs that were measured, and the verdict."""

    origin: str
    speeds: Mapping[Pair, float]  # bytes a second and rank
    errors: Mapping[Pair, str] = field(default_factory=dict)
    elapsed_s: float = 0.0
    carried: Mapping[Pair, float] = field(default_factory=dict)  # bytes a second, by its ports

    @property
    def nodes(self) -> list[str]:
        """Nodes to blame."""
        return slow_nodes(self.speeds)

    @property
    def links(self) -> list[Pair]:
        """Slow pairs of which no node is to blame alone."""
        return [pair for pair in slow_pairs(self.speeds) if not {*pair} & {*self.nodes}]

    @property
    def of_ports(self) -> dict[Pair, float]:
        """Share of what the ports carry, where that is known."""
        return {
            pair: self.speeds[pair] / carried for pair, carried in self.carried.items() if carried
        }

    @property
    def exit_code(self) -> ExitCode:
        """1 where something is slow."""
        return ExitCode.FAILED if slow_pairs(self.speeds) else ExitCode.OK


def measure(hosts: str | None, runs: str, environ: Mapping[str, str]) -> Pairs:
    """Both rounds; SoractlError where nodes are too few, busy, or torch does not start."""
    site = site_of(LaunchOptions(runs=runs, hostfile=hosts), environ)
    refuse_unnamed(site, "health --pairs")
    plan = site.plan(site.workdir / runs / "pairs", StartPoint("fresh"))
    if len(plan.nodes) < 2:
        raise SoractlError("--pairs needs two nodes or more", exit_code=ExitCode.NOTHING_SUITABLE)
    return measure_planned(plan, site)


def measure_planned(plan: LaunchPlan, site: Site) -> Pairs:
    """The same for the nodes of an attempt that is about to start."""
    began = time.monotonic()
    with Connections(site.cluster.ssh) as remote:
        refuse_if_busy(plan, remote)
        found = Bench(plan, site, remote).two_rounds()
    return replace(found, elapsed_s=time.monotonic() - began)


def refuse_if_busy(plan: LaunchPlan, remote: Connections) -> None:
    """SoractlError, exit code 5, where a GPU is in use: its run would slow down, and the pair too.

    Another code where nodes do not answer.
    """
    nodes = [node.node for node in plan.nodes]
    rows = read_gpus(nodes, remote, deadline_s=MEASURE_S)
    if faults := [row.fault for row in rows if row.fault]:
        names = fold_names([row.node.name for row in rows if row.fault])
        raise SoractlError(f"{names}: {faults[0]}", exit_code=exit_code_of(faults))
    if busy := [row.node.name for row in rows if row.processes]:
        raise SoractlError(
            f"GPUs are in use on {fold_names(busy)}",
            hint="`soractl gpus --procs` names who uses them",
            exit_code=ExitCode.REFUSED,
        )


@dataclass
class Bench:
    """A process of torch for each rank of each node, asked for one pair after another."""

    plan: LaunchPlan
    site: Site
    remote: Connections
    ranks: dict[str, list[Dialogue]] = field(default_factory=dict)
    program: str = "trainer.pair_speed"
    device: str = "cpu"
    carried: dict[str, float] = field(default_factory=dict)  # by node; what its ranks can use of it
    ports: "count[int]" = field(default_factory=lambda: count(29_600))

    def two_rounds(self) -> Pairs:
        """Speeds of all pairs that were tried."""
        names = [node.node.name for node in self.plan.nodes]
        self.start()
        speeds: dict[Pair, float] = {}
        errors: dict[Pair, str] = {}
        for turn in first_round(names):
            self._measure(turn, speeds, errors)
        checked = self._measure_again(speeds, errors)
        for turn in second_round(names, speeds):
            self._measure(turn, speeds, errors)
        self._measure_again(speeds, errors, checked)
        carried = {pair: min(self.carried.get(name, 0.0) for name in pair) for pair in speeds}
        return Pairs(self.site.source.origin, speeds, errors, carried=carried)

    def _measure_again(
        self, speeds: dict[Pair, float], errors: Mapping[Pair, str], checked: Sequence[Pair] = ()
    ) -> list[Pair]:
        """Slow pairs once more, one after another: the faster time counts, a hiccup blames nobody.

        Returns these pairs.
        """
        doubtful = [p for p in slow_pairs(speeds) if p not in errors and p not in checked]
        for pair in doubtful:
            found = self.speed(pair)
            speeds[pair] = max(speeds[pair], found if isinstance(found, float) else 0.0)
        return doubtful

    def start(self) -> None:
        """A process for each GPU of all nodes, or one a node; SoractlError where none starts."""
        if self.ranks:
            return
        nodes = self.plan.nodes
        with ThreadPoolExecutor(len(nodes)) as pool:
            first = list(pool.map(self._start, nodes))
            about = list(pool.map(_about, (node.node.name for node in nodes), first))
            has_gpus = all(
                one["devices"] >= node.ranks for one, node in zip(about, nodes, strict=True)
            )
            self.device = "cuda" if has_gpus else "cpu"
            if has_gpus:  # gloo on processors reaches no port's rate
                self.carried = {
                    node.node.name: one["network_bytes_per_s"] * node.ranks / one["devices"]
                    for node, one in zip(nodes, about, strict=True)
                }
            for node, dialogue in zip(nodes, first, strict=True):
                others = range(1, node.ranks if has_gpus else 1)
                more = pool.map(lambda _, node=node: self._start(node), others)
                self.ranks[node.node.name] = [dialogue, *more]

    def _start(self, node: NodePlan) -> Dialogue:
        command = python_on(
            node.node,
            self.site.cluster,
            *("-m", self.program),
            environment=dict(node.environment),
        )
        try:
            return self.remote.dialogue(node.node, command, START_S)
        except SshFailure as failure:
            raise SoractlError(f"{node.node.name}: {failure}", exit_code=ExitCode.FAILED) from None

    def _measure(
        self, turn: Sequence[Pair], speeds: dict[Pair, float], errors: dict[Pair, str]
    ) -> None:
        with ThreadPoolExecutor(len(turn)) as pool:
            for pair, found in zip(turn, pool.map(self.speed, turn), strict=True):
                speeds[pair] = found if isinstance(found, float) else 0.0
                if isinstance(found, str):
                    errors[pair] = found

    def speed(self, pair: Pair) -> float | str:
        """Bytes a second between two nodes, or why there are none."""
        members = [(name, i) for name in pair for i in range(len(self.ranks[name]))]
        address, port = pair[0], next(self.ports)
        questions = [
            {
                "address": address,
                "port": port,
                "rank": number,
                "world": len(members),
                "bytes": BYTES[self.device],
                "times": TIMES,
                "timeout_s": MEASURE_S / 2,
                "device": f"cuda:{local}" if self.device == "cuda" else "cpu",
            }
            for number, (_, local) in enumerate(members)
        ]
        with ThreadPoolExecutor(len(members)) as pool:
            answers = list(pool.map(self._ask, members, questions))
        # A rank that is gone is why the others complain.
        failed = [
            str(answer[key]) for key in ("gone", "error") for answer in answers if key in answer
        ]
        return failed[0] if failed else min(float(answer["bytes_per_s"]) for answer in answers)

    def _ask(self, member: tuple[str, int], question: Mapping[str, Any]) -> Mapping[str, Any]:
        """A rank's answer; one that has none starts again, or it would answer the next question."""
        name, local = member
        rank = self.ranks[name][local]
        try:
            line = rank.ask(json.dumps(question).encode(), START_S + MEASURE_S)
            answer: dict[str, Any] = json.loads(line)
            return answer
        except (SshFailure, ValueError) as failure:
            rank.close()
            with suppress(SoractlError):  # the closed one then fails at once
                node = next(node for node in self.plan.nodes if node.node.name == name)
                self.ranks[name][local] = self._start(node)
            return {"gone": str(failure)}


def _about(name: str, rank: Dialogue) -> dict[str, float]:
    """GPUs that torch sees there, and what its ports carry; SoractlError if torch does not load."""
    try:
        answer = json.loads(rank.ask(b"{}", START_S))
        if "error" in answer:
            raise ValueError(answer["error"])
        carried = float(answer.get("network_bytes_per_s", 0.0))
        return {"devices": int(answer["devices"]), "network_bytes_per_s": carried}
    except (SshFailure, ValueError, KeyError, TypeError) as failure:
        raise SoractlError(
            f"torch does not start on {name}: {failure}",
            hint="`soractl doctor` looks at the nodes' environments",
            exit_code=ExitCode.FAILED,
        ) from None
