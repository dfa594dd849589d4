"""What every node's GPUs are doing, and who uses them."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from soractl.cluster import nvml
from soractl.cluster.nvidia_smi import APP_FIELDS, GPU_FIELDS, fold_notes, parse_apps, parse_gpus
from soractl.cluster.nvidia_smi import Gpu as Gpu
from soractl.cluster.nvidia_smi import GpuProcess as GpuProcess
from soractl.errors import Fault, FaultKind
from soractl.remote.fan_out import everywhere, run_everywhere
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import sections

BUSY_BYTES = 2**30  # an idle GPU holds some hundred MiB; a process in a container is not listed
KNOWS_ALL = (0, 6)  # exit codes of nvidia-smi; 6: there is no device

# Both queries run at once: each takes about a second where the driver is not kept loaded.
SCRIPT = rf"""
export LC_ALL=C
echo '=== start 0'
query() {{ timeout -k 1 "$limit_s" nvidia-smi "$1" --format=csv,noheader,nounits 2>&1; }}
{{ gpus=$(query --query-gpu={",".join(GPU_FIELDS)}); code=$?
  printf '%s\n=== gpus %s\n' "$gpus" $code; }} &
apps=$(query --query-compute-apps={",".join(APP_FIELDS)}); code=$?
wait
printf '%s\n=== apps %s\n' "$apps" $code
set --
while IFS=', ' read -r pid rest; do
  case $pid in ''|*[!0-9]*) ;; *) set -- "$@" "/proc/$pid" ;; esac
done <<END
$apps
END
[ $# -gt 0 ] || exit 0
stat -c '%n %U' "$@" 2>/dev/null
echo '=== owners 0'
for folder; do shift; set -- "$@" "$folder/environ"; done
grep -azHs '^SORACTL_RUN_ID=' "$@" | tr '\0' '\n'
echo '=== runs 0'
"""


@dataclass(frozen=True)
class NodeGpus:
    node: Node
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    notes: tuple[str, ...] = ()  # what is odd about the node or its GPUs
    fault: Fault | None = None  # why nothing is known about the node
    elapsed_s: float = 0.0
    gpus_known: bool = True  # False: there may be GPUs, but the driver does not tell
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
            (gpu.util_pct or 0) > 0 or (gpu.mem_used_bytes or 0) > BUSY_BYTES for gpu in self.gpus
        )
        return used or bool(self.processes)

    @property
    def util_pct(self) -> float | None:
        return _mean(gpu.util_pct for gpu in self.gpus)

    @property
    def power_w(self) -> float | None:
        """Of the whole node."""
        return _sum(gpu.power_w for gpu in self.gpus)

    @property
    def mean_power_w(self) -> float | None:
        return _mean(gpu.power_w for gpu in self.gpus)

    @property
    def mem_used_bytes(self) -> float | None:
        return _sum(gpu.mem_used_bytes for gpu in self.gpus)

    @property
    def mem_total_bytes(self) -> float | None:
        return _sum(gpu.mem_total_bytes for gpu in self.gpus)

    @property
    def max_temp_c(self) -> float | None:
        return max((gpu.temp_c for gpu in self.gpus if gpu.temp_c is not None), default=None)

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
    request = Request(("sh", "-s"), f"limit_s={deadline_s * 0.7:.1f}\n{SCRIPT}")
    results = run_everywhere(
        nodes,
        lambda node: request,
        remote,
        deadline_s=deadline_s,
        on_result=(lambda result: on_result(parse(result))) if on_result else None,
    )
    return [parse(result) for result in results]


def parse(result: NodeResult) -> NodeGpus:
    """What a node's answer to SCRIPT says, be it whole or cut short."""
    found = sections(result.stdout)
    row = NodeGpus(result.node, elapsed_s=result.elapsed_s)
    if "gpus" not in found:
        return replace(row, fault=_fault(result, is_started="start" in found))
    gpus, notes = parse_gpus(*found["gpus"])
    notes += fold_notes(gpus)
    if result.node.slots and len(gpus) < result.node.slots:
        notes.append(f"{len(gpus)} of {result.node.slots} GPUs")
    text, code = found.get("apps", ("", None))
    if gpus and code != 0:
        notes.append("processes not known: nvidia-smi did not list them")
    owners = dict(line.split(" ", 1) for line in found.get("owners", ("", 0))[0].splitlines())
    runs = dict(
        line.split("/environ:SORACTL_RUN_ID=", 1)
        for line in found.get("runs", ("", 0))[0].splitlines()
        if "/environ:SORACTL_RUN_ID=" in line
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


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
