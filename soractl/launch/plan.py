"""What each node of an attempt starts, as data: command, environment, script."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soractl.cluster import rank_environment as nccl_env
from soractl.cluster.settings import RANKS_WITHOUT_GPUS, Cluster, Machine
from soractl.errors import SoractlError
from soractl.launch.start_point import StartPoint
from soractl.remote.nodes import Node
from soractl.runs.find import node_as_json
from trainer import run_dir
from trainer.run_dir import AttemptDir

TRAIN_SCRIPT = Path(run_dir.__file__).with_name("train.py")
DEFAULT_PORT = 29500  # torchrun's own
# colossalai hands its arguments to a shell of its own, unquoted; backslashes, unlike quotes, leave
# the script's name ending in .py, which it insists on.
_SHELL_UNSAFE = re.compile(r"([^A-Za-z0-9_@%+=:,./-])")
_COLOSSALAI_CD_UNSAFE = re.compile(r"[^A-Za-z0-9_@%+=:,./ -]")

NODE_SCRIPT = """\
# The ranks of {node} (node rank {node_rank}) in attempt {attempt} of {run}. Written by soractl.
exec >>{log} 2>&1 </dev/null
# A signal to all processes must not keep the exit code below from being written.
trap : HUP INT TERM
cd {workdir} && env -i {environment} \\
  {command}
echo $? >{exit}.draft && mv {exit}.draft {exit}
"""


@dataclass(frozen=True)
class NodePlan:
    """What one node starts."""

    node: Node
    node_rank: int
    ranks: int
    environment: Mapping[str, str]
    command: tuple[str, ...]


@dataclass(frozen=True)
class LaunchPlan:
    """What an attempt starts where; nothing is made yet."""

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
    """What each node starts; SoractlError when nodes, paths or environment cannot work."""
    nodes = [node for node in nodes if not node.spare]
    workdir = working_directory(cluster, machine)
    _check(nodes, (workdir, run, TRAIN_SCRIPT))
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
            operator=nccl_env.carried(environ, alone=here),
        )
        command = _command(ranks, f"{head}:{port}", (len(nodes), node_rank), run)
        node_plans.append(NodePlan(node, node_rank, ranks, environment, command))
    return LaunchPlan(run, workdir, start, cluster, head, port, tuple(node_plans))


def ranks_of(node: Node, cluster: Cluster, machine: Machine) -> int:
    """How many processes a node runs, one a GPU; SoractlError if nobody says."""
    return node.slots or cluster.ranks_per_node or _ranks_here(node, machine)


def environment_of(
    node: Node,
    ranks: int,
    *,
    run: Path,
    cluster: Cluster,
    machine: Machine,
    operator: Mapping[str, str],
) -> dict[str, str]:
    """What the processes of a node get besides what is the node's own."""
    return nccl_env.build(
        {**_threads(node, ranks, machine), **cluster.env},
        run=run,
        bin_folder=Path(cluster.environment) if cluster.environment else machine.environment,
        operator=operator,
    )


def working_directory(cluster: Cluster, machine: Machine) -> Path:
    """Where the ranks run, on every node."""
    return Path(cluster.workdir) if cluster.workdir else machine.workdir


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


def _command(ranks: int, head: str, node_of: tuple[int, int], run: Path) -> tuple[str, ...]:
    address, _, port = head.rpartition(":")
    count, node_rank = node_of
    return (
        *("colossalai", "run", "--nproc_per_node", str(ranks)),
        *("--master_addr", address, "--master_port", port),
        # colossalai thinks it is alone; torchrun takes the last value of a repeated option
        *("--extra_launch_args", f"nnodes={count},node_rank={node_rank}"),
        *(_SHELL_UNSAFE.sub(r"\\\1", str(path)) for path in (TRAIN_SCRIPT, run)),
    )


def _ranks_here(node: Node, machine: Machine) -> int:
    if not node.local:
        raise SoractlError(
            f"how many ranks does {node.name} run?",
            hint=f"write `{node.name} slots=8` into the hostfile, or ranks_per_node = 8 into the "
            ".toml beside it",
        )
    return machine.gpus or RANKS_WITHOUT_GPUS


def _threads(node: Node, ranks: int, machine: Machine) -> dict[str, str]:
    # Without a word, torchrun sets 1, and decoding and the optimizer crawl on a big machine.
    return {"OMP_NUM_THREADS": str(max(1, machine.cores // ranks))} if node.local else {}


def _check(nodes: Sequence[Node], paths: Sequence[Path]) -> None:
    names = [node.name for node in nodes]
    if not nodes:
        raise SoractlError("all nodes are spare: none is left to start on")
    if twice := {name for name in names if names.count(name) > 1}:
        raise SoractlError(
            f"{', '.join(sorted(twice))} stands more than once among the nodes",
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
