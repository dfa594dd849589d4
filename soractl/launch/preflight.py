"""Preflight: facts of every node before anything is started there, and the faults in them."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from soractl.cluster.gpus import BUSY_BYTES, NodeGpus, read_gpus
from soractl.errors import ExitCode, Fault, FaultKind, SoractlError, raise_if_interrupted
from soractl.launch.plan import TRAIN_SCRIPT, LaunchPlan, NodePlan
from soractl.launch.prepare import Prepared
from soractl.remote.fan_out import everywhere
from soractl.remote.folding import fold_lines, fold_names
from soractl.remote.nodes import Node
from soractl.remote.requests import Remote, Request
from soractl.remote.scripts import python, script, variables
from soractl.runs.lost_nodes import resume_on
from soractl.terminal import text

DEADLINE_S = 20.0
MIN_FREE_BYTES = 2**30
MIN_SHARED_MEMORY_BYTES = 2**24  # ranks and their loaders pass data through it
MAX_CLOCK_OFFSET_S = 2.0
PACKAGES = ("torch", "colossalai")
INSTALL = "`pip install 'soractl[train]'` and then `pip install --no-deps colossalai==0.5.0`"
LOST = (FaultKind.UNREACHABLE, FaultKind.DEADLINE)
CLOCK = Request(("date", "+%s.%N"))
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
    machine: str | None = None  # the same for two names of one machine
    can_write: bool = True  # to the folder of runs
    free_bytes: int | None = None  # where the runs lie
    shared_memory_free_bytes: int | None = None  # in /dev/shm
    versions: Mapping[str, str | None] = field(default_factory=dict)
    clock_offset_s: float = 0.0  # the part of it that is certain; positive: ahead of this machine
    used: str | None = None  # by another run: a sentence


@dataclass(frozen=True)
class Findings:
    """What speaks against starting, a sentence each, and what is odd."""

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hint: str | None = None


def check(prepared: Prepared, remote: Remote, *, force: bool = False) -> Sequence[str]:
    """Notes about the nodes, which `force` does not ask.

    SoractlError: exit code 6 for what is missing here, 5 for every fault of every node.
    """
    if prepared.missing:
        raise SoractlError(
            "missing: " + "; ".join(prepared.missing),
            hint=prepared.where_data_come_from,
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    found = Findings() if force else examine(prepared.plan, remote)
    if found.faults:
        raise SoractlError(
            "not started:\n" + "\n".join(f"  {fault}" for fault in found.faults),
            hint=found.hint,
            exit_code=ExitCode.REFUSED,
        )
    return found.notes


def examine(plan: LaunchPlan, remote: Remote) -> Findings:
    """Findings of all nodes; Interrupted at Ctrl-C."""
    try:
        with _marker(plan.run.parent) as marker:
            facts = ask(plan, marker, remote)
    except OSError as error:
        return Findings((str(cannot_write(plan.run.parent, error)),))
    raise_if_interrupted((node.fault for node in facts), "nothing was started")
    faults = list(judge(plan, facts, marker.name))
    if not faults:
        nodes = [node.node for node in plan.nodes]
        rows = read_gpus(nodes, remote, deadline_s=DEADLINE_S)
        raise_if_interrupted((row.fault for row in rows), "nothing was started")
        faults = list(judge_gpus(plan, rows))
    hint = hint_of(plan, facts) if faults else None
    return Findings(tuple(faults), tuple(judge_clocks(facts)), hint)


def unfit_to_join(plan: LaunchPlan, remote: Remote) -> dict[str, str]:
    """Why nodes of a plan cannot take a place in what its head runs already, by their names.

    A folder that cannot be written is this machine's fault: then nothing is known of theirs.
    """
    try:
        with _marker(plan.run.parent) as marker:
            facts = ask(plan, marker, remote)
    except OSError:
        return {}
    rows = read_gpus([node.node for node in plan.nodes], remote, deadline_s=DEADLINE_S)
    return judge_joining(plan, facts, rows, marker.name)


def judge_joining(
    plan: LaunchPlan, facts: Sequence[NodeFacts], rows: Sequence[NodeGpus], secret: str
) -> dict[str, str]:
    """What speaks against each node but the head, which is in use and only compared with."""
    joining = replace(plan, nodes=plan.nodes[1:])
    gpu_faults = _gpu_faults(joining, rows[1:]) if any(row.gpus for row in rows) else ()
    found = [(name, fault) for name, fault in gpu_faults]
    for node in facts[1:]:
        found += [(node.node.name, fault) for fault in _faults(plan, node, secret)]
        if not node.fault and not facts[0].fault:
            found += [
                (node.node.name, f"{name} {node.versions.get(name)}, the run has {version}")
                for name, version in facts[0].versions.items()
                if node.versions.get(name) != version
            ]
    return {name: "; ".join(f for n, f in found if n == name) for name, _ in found}


def cannot_write(folder: Path, error: OSError) -> SoractlError:
    """The error for a folder that is read-only, or on a full disk."""
    why = error.strerror or type(error).__name__
    return SoractlError(f"cannot write to {folder}: {why}", exit_code=ExitCode.REFUSED)


def ask(plan: LaunchPlan, marker: Path, remote: Remote) -> list[NodeFacts]:
    """Facts of all nodes, in their order."""
    by_name = {node.node.name: node for node in plan.nodes}
    return everywhere(
        [node.node for node in plan.nodes],
        lambda node: _ask(plan, by_name[node.name], marker, remote),
        lambda node, fault: NodeFacts(node, fault=fault),
        deadline_s=3 * DEADLINE_S,
    )


def judge(plan: LaunchPlan, facts: Sequence[NodeFacts], secret: str) -> Iterator[str]:
    """What speaks against starting, a sentence each; equal ones of many nodes are one line."""
    yield from fold_lines(
        (node.node.name, fault) for node in facts for fault in _faults(plan, node, secret)
    )
    head = facts[0]
    if not head.fault and not head.used and not head.port_is_free:
        yield f"{head.node.name}: port {plan.port} is taken; master_port names another one"
    answered = [node for node in facts if not node.fault]
    machines = _names_by([(node.machine, node.node.name) for node in answered if node.machine])
    for names in machines.values():
        if len(names) > 1:
            yield f"{' and '.join(names)} are one machine; it can be a node only once"
    for name in answered[0].versions if answered else ():
        found = _names_by([(node.versions.get(name), node.node.name) for node in answered])
        if len(found) > 1:
            kinds = [f"{version} on {fold_names(names)}" for version, names in found.items()]
            yield f"not the same {name} everywhere: {'; '.join(kinds)}"


def judge_clocks(facts: Sequence[NodeFacts]) -> list[str]:
    """A note on each clock that is certainly more than two seconds from this machine's."""
    return fold_lines(
        (
            node.node.name,
            f"its clock is {text.duration(abs(node.clock_offset_s))} "
            f"{'ahead of' if node.clock_offset_s > 0 else 'behind'} this machine's",
        )
        for node in facts
        if abs(node.clock_offset_s) > MAX_CLOCK_OFFSET_S
    )


def judge_gpus(plan: LaunchPlan, rows: Sequence[NodeGpus]) -> list[str]:
    """GPUs that are missing, broken or in use; without any GPU on any node it is a CPU run."""
    return fold_lines(_gpu_faults(plan, rows)) if any(row.gpus for row in rows) else []


def _gpu_faults(plan: LaunchPlan, rows: Sequence[NodeGpus]) -> Iterator[tuple[str, str]]:
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
            yield name, str(row.fault)
        elif len(row.gpus) < len(used):
            notes = "".join(f"; {note}" for note in row.notes)
            yield name, f"{len(row.gpus)} of {len(used)} GPUs{notes}"
        elif busy:
            who = ", ".join(row.run_ids or row.users)
            yield name, f"{text.count(len(busy), 'GPU')} in use{f' by {who}' if who else ''}"


def _faults(plan: LaunchPlan, node: NodeFacts, secret: str) -> Iterator[str]:
    if node.fault:
        yield str(node.fault)
        return
    if node.used:
        yield node.used
    if node.marker != secret:
        yield f"{plan.run.parent} is not the folder that this machine knows by that name"
    elif not node.can_write:
        yield f"{plan.run.parent} cannot be written there"
    shared_bytes = node.shared_memory_free_bytes
    if shared_bytes is not None and shared_bytes < MIN_SHARED_MEMORY_BYTES:
        yield f"/dev/shm is full: {text.size(shared_bytes)} are free, ranks need it"
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
    if node.gpus and all(index.isdecimal() for index in node.gpus):
        return {int(index) for index in node.gpus}
    return set(range(node.ranks))


def _ask(plan: LaunchPlan, node: NodePlan, marker: Path, remote: Remote) -> NodeFacts:
    path = node.environment["PATH"]
    ready = variables(path=path, folder=str(plan.workdir), file=str(TRAIN_SCRIPT)) + READY
    question = {
        "marker": str(marker),
        "head": plan.head,
        "port": plan.port,
        "code": str(TRAIN_SCRIPT.parent),
        "packages": PACKAGES,
    }
    probe = Request(("sh", "-s"), ready + python(PROBE, question, path))
    result = remote(node.node, probe, DEADLINE_S)
    if not result.ok:
        return NodeFacts(node.node, fault=result.problem)
    facts = json.loads(result.stdout.splitlines()[-1])
    look = Request(("sh", "-s"), plan.reservation(node, attempt=0).look(path))
    places = remote(node.node, look, DEADLINE_S)
    return NodeFacts(
        node.node,
        **{**facts, "head_addresses": tuple(facts["head_addresses"])},
        clock_offset_s=_clock_offset_s(node.node, remote),
        used=None if places.ok else places.reason,
    )


def _clock_offset_s(node: Node, remote: Remote) -> float:
    """Offset of a node's clock beyond doubt: the node read it between the request and its answer.

    0.0 where it may be none, or is not known.
    """
    before_unix_s = time.time()
    result = remote(node, CLOCK, DEADLINE_S)
    after_unix_s = time.time()
    try:
        there_unix_s = float(result.stdout)
    except ValueError:
        return 0.0
    return max(there_unix_s - after_unix_s, 0.0) + min(there_unix_s - before_unix_s, 0.0)


@contextmanager
def _marker(folder: Path) -> Iterator[Path]:
    """A file in the folder of runs that nodes look for; nothing of it stays."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".preflight-{uuid.uuid4().hex}"
    try:
        marker.write_text(marker.name)
        yield marker
    finally:
        marker.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # another launch has made a run there
                folder.rmdir()


def _names_by(pairs: Sequence[tuple[str | None, str]]) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for key, name in pairs:
        found.setdefault(key, []).append(name)
    return found


def hint_of(plan: LaunchPlan, facts: Sequence[NodeFacts]) -> str | None:
    """What to type next; some faults are in the way of `--force` too."""
    lost = [node.node.name for node in facts if node.fault and node.fault.kind in LOST]
    left = [node.node for node in facts if node.node.name not in lost]
    if plan.start.kind == "resume" and lost and left:
        return f"`{resume_on(plan.run.name, left)}` goes on without {fold_names(lost)}"
    words = ("no colossalai in ", "no torchrun in ", "no python3 in ")
    if any(str(node.fault or "").startswith(words) for node in facts):
        return f"{INSTALL} install them"
    return None if any(node.used for node in facts) else "--force starts all the same"
