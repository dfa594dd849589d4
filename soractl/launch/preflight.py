"""Preflight: facts of every node before anything is started there, and the faults in them."""

import json
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soractl.cluster.gpus import BUSY_BYTES, NodeGpus, read_gpus
from soractl.errors import ExitCode, Fault, SoractlError, raise_if_interrupted
from soractl.launch.plan import TRAIN_SCRIPT, LaunchPlan, NodePlan
from soractl.launch.prepare import Prepared
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import python, script, variables
from soractl.terminal import text

DEADLINE_S = 20.0
MIN_FREE_BYTES = 2**30
PACKAGES = ("torch", "colossalai")

READY = script("soractl.launch", "ready.sh")
PROBE = script("soractl.launch", "probe.py")


@dataclass(frozen=True)
class NodeFacts:
    """What a node answered, or why it did not."""

    node: Node
    fault: Fault | None = None
    marker: str | None = None  # what it reads in a file that was written here just now
    head_addresses: tuple[str, ...] = ()
    port_is_free: bool = True
    free_bytes: int | None = None  # where the runs lie
    versions: Mapping[str, str | None] = field(default_factory=dict)


def check(prepared: Prepared, remote: Remote, *, force: bool = False) -> None:
    """SoractlError: exit code 6 for what is missing here, 5 for every fault of every node."""
    plan = prepared.plan
    if prepared.missing:
        raise SoractlError(
            "missing: " + "; ".join(prepared.missing), exit_code=ExitCode.NOTHING_SUITABLE
        )
    if force:
        return
    marker = plan.run.parent / f".preflight-{uuid.uuid4().hex}"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(marker.name)
    except OSError as error:
        raise SoractlError(f"cannot write to {marker.parent}: {error.strerror}") from None
    try:
        facts = ask(plan, marker, remote)
    finally:
        marker.unlink()
    raise_if_interrupted((node.fault for node in facts), "nothing was started")
    faults = list(judge(plan, facts, marker.name))
    if not faults:
        nodes = [node.node for node in plan.nodes]
        rows = read_gpus(nodes, remote, deadline_s=DEADLINE_S)
        raise_if_interrupted((row.fault for row in rows), "nothing was started")
        faults = list(judge_gpus(plan, rows))
    if faults:
        raise SoractlError(
            "not started:\n" + "\n".join(f"  {fault}" for fault in faults),
            hint="--force starts all the same",
            exit_code=ExitCode.REFUSED,
        )


def ask(plan: LaunchPlan, marker: Path, remote: Remote) -> list[NodeFacts]:
    """Facts of all nodes, in their order."""
    by_name = {node.node.name: node for node in plan.nodes}
    question = {
        "marker": str(marker),
        "head": plan.head,
        "port": plan.port,
        "code": str(TRAIN_SCRIPT.parent),
        "packages": PACKAGES,
    }

    def request(node: Node) -> Request:
        path = by_name[node.name].environment["PATH"]
        ready = variables(path=path, folder=str(plan.workdir), file=str(TRAIN_SCRIPT)) + READY
        return Request(("sh", "-s"), ready + python(PROBE, question, path))

    nodes = [node.node for node in plan.nodes]
    return [_facts(r) for r in run_everywhere(nodes, request, remote, deadline_s=DEADLINE_S)]


def judge(plan: LaunchPlan, facts: Sequence[NodeFacts], secret: str) -> Iterator[str]:
    """What speaks against starting, a sentence each."""
    for node in facts:
        yield from (f"{node.node.name}: {fault}" for fault in _faults(plan, node, secret))
    head = facts[0]
    if not head.fault and not head.port_is_free:
        yield f"{head.node.name}: port {plan.port} is taken; master_port names another one"
    answered = [node for node in facts if not node.fault]
    for name in answered[0].versions if answered else ():
        found: dict[str | None, list[str]] = {}
        for node in answered:
            found.setdefault(node.versions.get(name), []).append(node.node.name)
        if len(found) > 1:
            kinds = [f"{version} on {', '.join(names)}" for version, names in found.items()]
            yield f"not the same {name} everywhere: {'; '.join(kinds)}"


def judge_gpus(plan: LaunchPlan, rows: Sequence[NodeGpus]) -> Iterator[str]:
    """GPUs that are missing, broken or in use; without any GPU on any node it is a CPU run."""
    if not any(row.gpus for row in rows):
        return
    for node, row in zip(plan.nodes, rows, strict=True):
        name = node.node.name
        used = _used_gpus(node)
        busy = {process.gpu_index for process in row.processes} & used
        busy |= {
            gpu.index
            for gpu in row.gpus
            if gpu.index in used and (gpu["mem_used_bytes"] or 0) > BUSY_BYTES
        }
        if row.fault:
            yield f"{name}: {row.fault}"
        elif len(row.gpus) < len(used):
            notes = "".join(f"; {note}" for note in row.notes)
            yield f"{name}: {len(row.gpus)} of {len(used)} GPUs{notes}"
        elif busy:
            who = ", ".join(row.run_ids or row.users)
            yield f"{name}: {text.count(len(busy), 'GPU')} in use{f' by {who}' if who else ''}"


def _faults(plan: LaunchPlan, node: NodeFacts, secret: str) -> Iterator[str]:
    if node.fault:
        yield str(node.fault)
        return
    if node.marker != secret:
        yield f"{plan.run.parent} is not the folder that this machine knows by that name"
    if node.free_bytes is not None and node.free_bytes < MIN_FREE_BYTES:
        yield f"{node.free_bytes / 2**30:.1f} GiB are free where the runs lie"
    if not node.head_addresses:
        yield f"the name {plan.head} means nothing there"
    is_head = node.node == plan.nodes[0].node
    if not is_head and plan.head not in node.head_addresses and _is_loopback(node.head_addresses):
        yield f"it takes the head's name {plan.head} for its own"


def _is_loopback(addresses: Sequence[str]) -> bool:
    return any(address.startswith("127.") or address == "::1" for address in addresses)


def _used_gpus(node: NodePlan) -> set[int | None]:
    chosen = node.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if all(index.isdecimal() for index in chosen):
        return {int(index) for index in chosen}
    return set(range(node.ranks))


def _facts(result: NodeResult) -> NodeFacts:
    if not result.ok:
        return NodeFacts(result.node, fault=result.problem)
    facts = json.loads(result.stdout.splitlines()[-1])
    return NodeFacts(result.node, **{**facts, "head_addresses": tuple(facts["head_addresses"])})
