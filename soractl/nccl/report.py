"""Lines and JSON of the `env` commands."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from soractl.cluster.rank_environment import DEFAULTS
from soractl.nccl.ask import NodesEnvironment
from soractl.nccl.detect import Proposal, toml
from soractl.nccl.lint import Finding
from soractl.nccl.meanings import MEANINGS
from soractl.remote.folding import fold_names
from soractl.terminal.table import Table

STYLES = {"error": "red", "warning": "yellow", "note": ""}


def show(found: NodesEnvironment) -> Table:
    """Each variable that ranks get: value, origin, meaning."""
    rows = [
        (name, value, origin, MEANINGS.get(name, "")) for name, value, origin in variables(found)
    ]
    return Table(("VARIABLE", "VALUE", "FROM", "MEANING"), rows, words=2)


def variables(found: NodesEnvironment) -> Iterator[tuple[str, str, str]]:
    """Name, value and origin; what only some nodes get names their table or their file."""
    file = str(found.file) if found.file else "the cluster's file"
    own = found.cluster.env_names
    for name, default in {**DEFAULTS, **found.operator}.items():
        if name not in own:
            yield name, default, "your environment" if name in found.operator else "soractl"
    for name, value in found.cluster.env.items():
        if not isinstance(value, Mapping):
            yield name, str(value), file
    for pattern, values in found.cluster.env.items():
        if isinstance(values, Mapping):
            yield from ((name, str(v), f'{file} [env."{pattern}"]') for name, v in values.items())
    for (path, name, value), nodes in _files(found).items():
        yield name, value, f"{path} on {fold_names(nodes)}"


def _files(found: NodesEnvironment) -> dict[tuple[str, str, str], list[str]]:
    """NCCL's own files on the nodes, where the environment does not set the same."""
    files: dict[tuple[str, str, str], list[str]] = {}
    for node, hardware in found.hardware.items():
        for setting in hardware.files:
            if setting[1] not in found.envs[node]:
                files.setdefault(setting, []).append(node)
    return files


def check(found: NodesEnvironment) -> list[Table]:
    """The findings, errors first; none: nothing."""
    rows = [(one.severity, one.name, _with_nodes(one)) for one in found.findings]
    styles = tuple(STYLES[severity] for severity, _, _ in rows)
    return [Table(("", "VARIABLE", "FINDING"), rows, words=1, styles=styles)] if rows else []


def _with_nodes(finding: Finding) -> str:
    return f"{fold_names(finding.nodes)}: {finding.message}" if finding.nodes else finding.message


def notes(found: NodesEnvironment) -> Iterator[str]:
    """Nodes that did not answer, and the count."""
    for node, fault in found.faults.items():
        yield f"{node}: {fault}"


def count(found: NodesEnvironment) -> str:
    """`hosts.txt: 2 errors, 1 warning; 24 nodes looked at`."""
    severities = [finding.severity for finding in found.findings]
    parts = [
        f"{severities.count(kind)} {kind}{'s' * (severities.count(kind) != 1)}"
        for kind in dict.fromkeys(severities)
    ]
    looked = f"{len(found.hardware)} of {len(found.source.nodes)} nodes looked at"
    return f"{found.source.origin}: {', '.join(parts) or 'nothing to find'}; {looked}"


def detect(proposal: Proposal) -> list[str]:
    """TOML for the cluster's file."""
    return toml(proposal)


def show_json(found: NodesEnvironment) -> dict[str, Any]:
    """Variables, and each node's whole environment."""
    others = {**DEFAULTS, **found.operator}
    return {
        "variables": [
            {"name": name, "value": value, "from": origin, "meaning": MEANINGS.get(name)}
            for name, value, origin in variables(found)
        ],
        "nodes": [
            {"node": node, "env": {**others, **env}, "error": _error(found, node)}
            for node, env in found.envs.items()
        ],
    }


def check_json(found: NodesEnvironment) -> dict[str, Any]:
    """The findings; `nodes` is empty where one concerns all."""
    return {
        "findings": [asdict(finding) for finding in found.findings],
        "nodes": [{"node": node, "error": _error(found, node)} for node in found.envs],
    }


def detect_json(proposal: Proposal) -> dict[str, Any]:
    """The proposal."""
    return {
        "env": proposal.common,
        "of_nodes": dict(proposal.of_nodes),
        "reasons": list(proposal.reasons),
    }


def _error(found: NodesEnvironment, node: str) -> str | None:
    return str(found.faults[node]) if node in found.faults else None
