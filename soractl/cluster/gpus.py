"""The GPUs of every node: their numbers, processes, owners and runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from soractl.cluster import nvml
from soractl.cluster.nvidia_smi import APP_FIELDS, fold_notes, gpu_fields, parse_apps, parse_gpus
from soractl.cluster.nvidia_smi import Gpu as Gpu
from soractl.cluster.nvidia_smi import GpuProcess as GpuProcess
from soractl.cluster.rank_environment import RUN_ID
from soractl.errors import Fault, FaultKind
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script, sections

BUSY_BYTES = 2**30  # an idle GPU holds some hundred MiB; a process in a container is not listed
KNOWS_ALL = (0, 6)  # exit codes of nvidia-smi; 6: there is no device


@dataclass(frozen=True)
class NodeGpus:
    """A node's row: its GPUs, or the fault that hides them.

    >>> NodeGpus(Node("n4"), fault=Fault(FaultKind.UNREACHABLE, "no route")).gpu_count is None
    True
    """

    node: Node
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    notes: tuple[str, ...] = ()  # what is odd about the node or its GPUs
    fault: Fault | None = None  # why nothing is known about the node
    elapsed_s: float = 0.0
    gpus_known: bool = True  # False: there may be GPUs, but the driver does not answer
    processes_known: bool = True

    @property
    def gpu_count(self) -> int | None:
        return len(self.gpus) if self.gpus_known and self.fault is None else None

    @property
    def process_count(self) -> int | None:
        return len(self.processes) if self.processes_known and self.fault is None else None

    @property
    def bad(self) -> bool:
        return self.fault is not None or bool(self.notes)

    @property
    def busy(self) -> bool:
        used = any(
            (gpu["util_pct"] or 0) > 0 or (gpu["mem_used_bytes"] or 0) > BUSY_BYTES
            for gpu in self.gpus
        )
        return used or bool(self.processes)

    @property
    def users(self) -> tuple[str, ...]:
        return tuple(sorted({process.user for process in self.processes if process.user}))

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(sorted({process.run_id for process in self.processes if process.run_id}))


def read_gpus(
    nodes: Sequence[Node],
    remote: Remote,
    *,
    deadline_s: float,
    on_result: Callable[[NodeGpus], None] | None = None,
) -> list[NodeGpus]:
    """The GPUs of all nodes, in the order of `nodes`; a node that fails keeps its row."""
    if list(nodes) == [this_machine()]:
        return everywhere(
            nodes,
            _read_here,
            lambda node, fault: NodeGpus(node, fault=fault),
            deadline_s=deadline_s,
            on_result=on_result,
        )
    # Less than the deadline, so that the node itself can say that nvidia-smi hangs.
    limit_s = f"{deadline_s * 0.7:.1f}"
    fields = (",".join(gpu_fields()), ",".join(APP_FIELDS))
    request = Request(("sh", "-s", "--", limit_s, *fields), script("soractl.cluster", "gpus.sh"))
    return everywhere(
        nodes,
        lambda node: parse(remote(node, request, deadline_s)),
        lambda node, fault: parse(NodeResult(node, fault=fault, elapsed_s=deadline_s)),
        deadline_s=deadline_s,
        on_result=on_result,
    )


def parse(result: NodeResult) -> NodeGpus:
    """The row of a node's answer to gpus.sh, be it whole or cut short."""
    found = sections(result.stdout)
    row = NodeGpus(result.node, elapsed_s=result.elapsed_s)
    if "gpus" not in found:
        return replace(row, fault=_fault(result, is_started="start" in found))
    names, _ = found.get("fields", ("", 0))
    gpus, notes = parse_gpus(*found["gpus"], names.strip().split(",") if names else None)
    notes += fold_notes(gpus)
    if result.node.slots and len(gpus) < result.node.slots:
        notes.append(f"{len(gpus)} of {result.node.slots} GPUs")
    text, code = found.get("apps", ("", None))
    if gpus and code != 0:
        notes.append("processes not known: nvidia-smi did not list them")
    owners = dict(line.split(" ", 1) for line in found.get("owners", ("", 0))[0].splitlines())
    marker = f"/environ:{RUN_ID}="
    runs = dict(
        line.split(marker, 1)
        for line in found.get("runs", ("", 0))[0].splitlines()
        if marker in line
    )
    processes = tuple(
        replace(p, user=owners.get(f"/proc/{p.pid}"), run_id=runs.get(f"/proc/{p.pid}"))
        for p in parse_apps(text, gpus)
    )
    return replace(
        row,
        gpus=tuple(gpus),
        processes=processes,
        notes=tuple(notes),
        gpus_known=bool(gpus) or found["gpus"][1] in KNOWS_ALL,
        processes_known=code in KNOWS_ALL,
    )


def _fault(result: NodeResult, *, is_started: bool) -> Fault:
    if is_started and result.fault and result.fault.kind is FaultKind.DEADLINE:
        return Fault(FaultKind.DEADLINE, f"{result.fault.message}: nvidia-smi is stuck")
    printed = (result.stderr or result.stdout).strip()[-160:]
    return result.fault or Fault(FaultKind.FAILED, f"the node's shell printed: {printed}")


def _read_here(node: Node) -> NodeGpus:
    started = time.monotonic()
    found = nvml.read()
    return NodeGpus(
        node,
        tuple(found.gpus),
        tuple(found.processes),
        tuple(found.notes + fold_notes(found.gpus)),
        elapsed_s=time.monotonic() - started,
        gpus_known=found.gpus_known,
        processes_known=found.processes_known,
    )
