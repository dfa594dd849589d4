"""The plan of an attempt as data: command, environment and script of each node."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soractl.cluster.rank_environment import RUN_ID, carried, environment_of
from soractl.cluster.ranks import ranks_of, working_directory
from soractl.cluster.settings import Cluster, Machine
from soractl.errors import SoractlError
from soractl.launch.start_point import StartPoint
from soractl.processes.reservation import Reservation
from soractl.remote.folding import fold_names
from soractl.remote.nodes import Node
from soractl.runs.record import node_as_json
from trainer import run_dir
from trainer.run_dir import AttemptDir

TRAIN_SCRIPT = Path(run_dir.__file__).with_name("train.py")
DEFAULT_PORT = 29500  # torchrun's own
# How long the nodes of a run wait for each other; colossalai cannot pass a value with a `=` in it.
RENDEZVOUS = {"PET_RDZV_CONF": "timeout=120"}
# Skips the barrier that keeps nodes of two runs on one port apart.
REFUSED_IN_ENV = "TORCH_ELASTIC_WORKER_IDENTICAL"
# colossalai hands its arguments to a shell of its own, unquoted; backslashes, unlike quotes, leave
# the script's name ending in .py, which it insists on.
_SHELL_UNSAFE = re.compile(r"([^A-Za-z0-9_@%+=:,./-])")
_COLOSSALAI_CD_UNSAFE = re.compile(r"[^A-Za-z0-9_@%+=:,./ -]")

NODE_SCRIPT = """\
# The ranks of {node} (node rank {node_rank}) in attempt {attempt} of {run}. Written by soractl.
# Through `keep` goes what is printed: on a full disk lines are lost, and later ones are kept again.
# A program that writes to the log itself may end at the first line that is lost.
keep() {{
  trap '' HUP INT TERM
  while IFS= read -r -t 1 line; got=$?; [ $got = 0 ] || [ $got -gt 128 ] || [ -n "$line" ]; do
    end=; [ $got = 0 ] && end='\\n'
    [ -z "$line$end" ] || printf "%s$end" "$line" >>{log}
  done
}} 2>/dev/null
# A signal to all processes must not keep the exit code below from being written.
trap : HUP INT TERM
# Room for the exit code is taken now: the disk may be full when it is known.
: >>{log}
echo '   ' >{exit}.draft
exec > >(keep) 2>&1 </dev/null
keeper=$!
# GPUS: those that Slurm gave to the job, where it runs this.
cd {workdir} && env -i ${{GPUS:+CUDA_VISIBLE_DEVICES="$GPUS"}} {environment} \\
  {command}
code=$?
exec >/dev/null 2>&1
# The log is whole before the end is known; ranks that outlive their launcher would hold it open.
for _ in {{1..20}}; do kill -0 $keeper || break; sleep 0.1; done
echo $code 1<>{exit}.draft && mv {exit}.draft {exit}
"""


@dataclass(frozen=True)
class NodePlan:
    """Start of one node."""

    node: Node
    node_rank: int
    ranks: int
    environment: Mapping[str, str]
    command: tuple[str, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        """The chosen GPUs by index or UUID; none: the node's first ones."""
        chosen = self.environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        return tuple(word.strip() for word in chosen if word.strip())


@dataclass(frozen=True)
class LaunchPlan:
    """Starts of an attempt on all nodes; nothing is made yet."""

    run: Path  # absolute, the same on every node
    workdir: Path
    start: StartPoint
    cluster: Cluster
    head: str  # where rank 0 waits for the others
    port: int
    nodes: tuple[NodePlan, ...]

    @property
    def world_size(self) -> int:
        """Ranks on all nodes together."""
        return sum(node.ranks for node in self.nodes)

    def at(self, run: Path, attempt: int) -> "LaunchPlan":
        """The same plan for the run and attempt that were made: nothing else is decided anew."""
        return replace(self, run=run, nodes=tuple(_at(node, run, attempt) for node in self.nodes))

    def reservation(self, node: NodePlan, attempt: int) -> Reservation:
        """The use of one node: its GPUs or rank slots and, on the head, the port."""
        return Reservation(
            run=str(self.run),
            attempt=attempt,
            ranks=node.ranks,
            gpus=node.gpus,
            port=self.port if node.node_rank == 0 else None,
        )

    def as_json(self) -> dict[str, Any]:
        """As `plan.json` says it."""
        return {
            "run_id": str(self.run),
            "workdir": str(self.workdir),
            "world_size": self.world_size,
            "start": self.start.as_json(),
            "ssh": vars(self.cluster.ssh),
            "nodes": [
                {
                    **node_as_json(node.node),
                    "node_rank": node.node_rank,
                    "ranks": node.ranks,
                    "environment": dict(node.environment),
                    "command": list(node.command),
                }
                for node in self.nodes
            ],
        }


def plan(
    run: Path,
    start: StartPoint,
    *,
    nodes: Sequence[Node],
    cluster: Cluster,
    machine: Machine,
    environ: Mapping[str, str],
) -> LaunchPlan:
    """The plan of an attempt; SoractlError when nodes, paths or environment cannot work."""
    nodes = [node for node in nodes if not node.spare]
    workdir = working_directory(cluster, machine)
    _check(nodes, (workdir, run, TRAIN_SCRIPT))
    if REFUSED_IN_ENV in cluster.env_names:
        raise SoractlError(
            f"{REFUSED_IN_ENV} in [env] would let nodes of two runs train together; leave it out"
        )
    alone = len(nodes) == 1
    here = alone and nodes[0].local
    head = "127.0.0.1" if alone else nodes[0].name
    port = cluster.master_port or (machine.free_port if here else DEFAULT_PORT)
    node_plans = []
    for node_rank, node in enumerate(nodes):
        ranks = ranks_of(node, cluster, machine)
        environment = environment_of(
            node,
            ranks,
            run=run,
            cluster=cluster,
            machine=machine,
            operator=carried(environ, alone=here),
        )
        environment = {**({} if alone else RENDEZVOUS), **environment}
        meeting = f"{_fence(run, 1)},nnodes={len(nodes)},node_rank={node_rank}"
        command = _command(ranks, f"{head}:{port}", meeting, run)
        node_plans.append(NodePlan(node, node_rank, ranks, environment, command))
    return LaunchPlan(run, workdir, start, cluster, head, port, tuple(node_plans))


def node_script(plan: LaunchPlan, node: NodePlan, attempt: AttemptDir) -> str:
    """The bash script that runs on a node until its ranks have ended."""
    environment = ['HOME="$HOME"', 'USER="${USER:-$(id -un)}"', 'LANG="${LANG:-C.UTF-8}"']
    environment += [f"{key}={shlex.quote(value)}" for key, value in node.environment.items()]
    return NODE_SCRIPT.format(
        node=node.node.name,
        node_rank=node.node_rank,
        attempt=attempt.number,
        run=plan.run.name,
        workdir=shlex.quote(str(plan.workdir)),
        environment=" ".join(environment),
        command=shlex.join(node.command),
        log=shlex.quote(str(attempt.node_log(node.node.name))),
        exit=shlex.quote(str(attempt.node_exit(node.node.name))),
    )


def _fence(run: Path, attempt: int) -> str:
    """Rendezvous id of an attempt: agents with another one never start their ranks."""
    digest = hashlib.sha256(str(run).encode()).hexdigest()[:8]
    return f"rdzv_id={run.name.partition('-')[0]}-{attempt}-{digest}"


def _at(node: NodePlan, run: Path, attempt: int) -> NodePlan:
    *command, meeting, script, _ = node.command
    _, _, rest = meeting.partition(",")
    meeting = f"{_fence(run, attempt)},{rest}"
    environment = {**node.environment, RUN_ID: str(run)}
    return replace(
        node, environment=environment, command=(*command, meeting, script, _escaped(run))
    )


def _escaped(path: Path) -> str:
    return _SHELL_UNSAFE.sub(r"\\\1", str(path))


def _command(ranks: int, head: str, meeting: str, run: Path) -> tuple[str, ...]:
    address, _, port = head.rpartition(":")
    return (
        *("colossalai", "run", "--nproc_per_node", str(ranks)),
        *("--master_addr", address, "--master_port", port),
        # colossalai thinks it is alone; torchrun takes the last value of a repeated option
        *("--extra_launch_args", meeting),
        *(_escaped(TRAIN_SCRIPT), _escaped(run)),
    )


def _check(nodes: Sequence[Node], paths: Sequence[Path]) -> None:
    names = [node.name for node in nodes]
    if not nodes:
        raise SoractlError("all nodes are spare: none is left to start on")
    if twice := {name for name in names if names.count(name) > 1}:
        raise SoractlError(
            f"{fold_names(sorted(twice))} stands more than once among the nodes",
            hint="logs are named after nodes: give each a name of its own in ~/.ssh/config",
        )
    if len(nodes) > 1 and nodes[0].name in ("localhost", "127.0.0.1"):
        raise SoractlError(
            f"the other nodes cannot reach the head node as {nodes[0].name}",
            hint="name it as the other nodes know it",
        )
    for path in paths:
        if bad := _COLOSSALAI_CD_UNSAFE.search(str(path)):
            raise SoractlError(f"{path}: `colossalai run` cannot handle {bad.group()!r} in a path")
