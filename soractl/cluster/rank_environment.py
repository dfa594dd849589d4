"""The ranks of a node: how many, in which folder, with which environment."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from soractl.cluster.settings import RANKS_WITHOUT_GPUS, Cluster, Machine
from soractl.errors import SoractlError
from soractl.remote.nodes import Node

RUN_ID = "SORACTL_RUN_ID"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FROM_THE_OPERATOR = ("WANDB_MODE",)
# when this machine is all there is
FROM_THE_OPERATOR_HERE = ("WANDB_MODE", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE")
IN_FOLDER = 'cd "$1" && shift && exec "$@"'
SECRET = re.compile(r"(_KEY|_TOKEN|_SECRET|PASSWORD)$")

# `colossalai run` exports every value as NAME="value" through a shell, and prints it on a failure.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNSAFE = re.compile(r"""["$`\\]|[^ -~]""")


def ranks_of(node: Node, cluster: Cluster, machine: Machine) -> int:
    """The number of processes of a node, one a GPU; SoractlError if nothing states it."""
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
    """The environment of a node's ranks, beside what is the node's own."""
    return build(
        {**_threads(node, ranks, machine), **cluster.env},
        run=run,
        bin_folder=Path(cluster.environment) if cluster.environment else machine.environment,
        operator=operator,
    )


def working_directory(cluster: Cluster, machine: Machine) -> Path:
    """Where the ranks run, on every node."""
    return Path(cluster.workdir) if cluster.workdir else machine.workdir


def python_on(
    node: Node, cluster: Cluster, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """The command that runs the trainer's Python on a node, in the folder that nodes share.

    >>> cluster = Cluster(environment="/env/bin", workdir="/work")
    >>> python_on(Node("n1"), cluster, "-m", "trainer.encode", environment={"LANG": "C"})[4:]
    ('/work', 'env', 'LANG=C', '/env/bin/python', '-m', 'trainer.encode')
    """
    here = Path(sys.executable)
    python = str(here) if node.local else f"{cluster.environment or here.parent}/python"
    variables = [f"{key}={value}" for key, value in (environment or {}).items()]
    return (
        *("sh", "-c", IN_FOLDER, "sh", cluster.workdir or str(Path.cwd())),
        *(["env", *variables] if variables else []),
        *(python, *arguments),
    )


def build(
    cluster_env: Mapping[str, str | int],
    *,
    run: Path,
    bin_folder: Path,
    operator: Mapping[str, str],
) -> dict[str, str]:
    """Environment beside the node's HOME, USER and LANG; SoractlError names a bad value."""
    own = {key: str(value) for key, value in cluster_env.items()}
    environment = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **operator,
        **own,
        "PATH": f"{bin_folder}:{own.get('PATH', SYSTEM_PATH)}",
        RUN_ID: str(run),
    }
    check(environment)
    return environment


def carried(environ: Mapping[str, str], *, alone: bool) -> dict[str, str]:
    """The part of the operator's own environment that ranks get."""
    names = FROM_THE_OPERATOR_HERE if alone else FROM_THE_OPERATOR
    return {name: environ[name] for name in names if environ.get(name)}


def check(environment: Mapping[str, str]) -> None:
    """SoractlError for the first name or value that would not arrive as it is."""
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            raise SoractlError(
                f"{name!r} cannot be the name of an environment variable",
                hint="letters, digits and _ only; it stands under [env] of the cluster's file",
            )
        if SECRET.search(name):
            raise SoractlError(
                f"{name} looks like a secret; the environment of a run is written to its logs",
                hint="`wandb login` and `hf auth login` keep theirs in a file of the user's home",
            )
        if not value or (bad := _UNSAFE.search(value)):
            seen = f"{value!r} holds {bad.group()!r}" if value and bad else "it is empty"
            raise SoractlError(
                f"{name} cannot travel to the nodes: {seen}",
                hint='a value is plain text without ", $, `, \\ and line breaks',
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
