"""Environment and hardware of a cluster's nodes: the cluster's file, and one question to each."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from soractl.cluster import settings
from soractl.cluster.rank_environment import carried
from soractl.errors import ExitCode, Fault, FaultKind, SoractlError, exit_code_of
from soractl.nccl.against_nodes import check_nodes
from soractl.nccl.detect import Proposal, detect
from soractl.nccl.hardware import Hardware, parse
from soractl.nccl.lint import Finding, Versions, lint
from soractl.remote.connections import Connections
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import NodeSource, find_nodes
from soractl.remote.requests import NodeResult, Request
from soractl.remote.scripts import script


@dataclass(frozen=True)
class NodesEnvironment:
    """Environment that ranks of each node would get, and hardware of the nodes that answered."""

    source: NodeSource
    file: Path | None  # of the cluster
    cluster: settings.Cluster
    operator: Mapping[str, str]  # what ranks get of the environment of whoever launches
    hardware: Mapping[str, Hardware] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)

    @property
    def envs(self) -> dict[str, dict[str, str]]:
        """Variables of the cluster's file by node."""
        return {
            node.name: {name: str(value) for name, value in self.cluster.env_of(node.name).items()}
            for node in self.source.nodes
        }

    @property
    def findings(self) -> list[Finding]:
        """Errors first, then warnings and notes; each of a node's own values names the node."""
        envs = self.envs
        versions = Versions(
            min((one.nccl for one in self.hardware.values() if one.nccl), default=None),
            min((one.torch for one in self.hardware.values() if one.torch), default=None),
        )
        found: dict[tuple[str, str], Finding] = {}
        for node, env in envs.items():
            for finding in lint(env, versions):
                key = (finding.name, finding.message)
                before = found.get(key, Finding(finding.severity, *key))
                nodes = (*before.nodes, node)
                found[key] = Finding(finding.severity, *key, nodes=nodes)
        texts = [
            one if len(one.nodes) < len(envs) else Finding(one.severity, one.name, one.message)
            for one in found.values()
        ]
        known = {name: envs[name] for name in self.hardware}
        everything = [*texts, *check_nodes(known, self.hardware), *self._unused_tables()]
        order = ("error", "warning", "note")
        return sorted(everything, key=lambda finding: order.index(finding.severity))

    @property
    def exit_code(self) -> ExitCode:
        """1 where there is an error; else as for every command over many nodes."""
        if any(finding.severity == "error" for finding in self.findings):
            return ExitCode.FAILED
        return exit_code_of(self.faults.get(node.name) for node in self.source.nodes)

    def _unused_tables(self) -> list[Finding]:
        names = [node.name for node in self.source.nodes]
        return [
            Finding("warning", f'env."{pattern}"', "no node has such a name")
            for pattern, values in self.cluster.env.items()
            if isinstance(values, Mapping) and not any(fnmatchcase(name, pattern) for name in names)
        ]


def ask(hosts: str | None, environ: Mapping[str, str], *, deadline_s: float) -> NodesEnvironment:
    """All of it; a node that does not answer is a fault, not an error."""
    source = find_nodes(hosts, environ=environ)
    cluster, file = settings.load(source.hostfile)
    head = source.nodes[0].name
    folder = cluster.environment or str(Path(sys.executable).parent)
    request = Request(("sh", "-s", "--", "", head, folder), script("soractl.nccl", "hardware.sh"))
    with Connections(cluster.ssh) as remote:
        results = run_everywhere(source.nodes, lambda node: request, remote, deadline_s=deadline_s)
    hardware, faults = {}, {}
    for result in results:
        answer = _answer(result)
        if isinstance(answer, Fault):
            faults[result.node.name] = answer
        else:
            hardware[result.node.name] = answer
    alone = len(source.nodes) == 1 and source.nodes[0].local
    return NodesEnvironment(source, file, cluster, carried(environ, alone=alone), hardware, faults)


def propose(found: NodesEnvironment) -> Proposal:
    """Proposal for the nodes that answered; SoractlError where none did."""
    if not found.hardware:
        raise SoractlError("no node answered", exit_code=found.exit_code)
    return detect(found.hardware)


def _answer(result: NodeResult) -> Hardware | Fault:
    if result.problem:
        return result.problem
    try:
        return parse(result.stdout)
    except ValueError as error:
        return Fault(FaultKind.FAILED, str(error))
