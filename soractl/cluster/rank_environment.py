"""The environment of ranks: what they get, and what could not travel to a node.

The later wins: the rendezvous (`launch/plan`), defaults, the operator's own, threads, `[env]` of
the cluster's file, its tables for single nodes (`Cluster.env_of`), PATH and the run's mark.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from soractl.cluster.settings import Cluster, Machine
from soractl.errors import SoractlError
from soractl.remote.nodes import Node

RUN_ID = "SORACTL_RUN_ID"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULTS = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
FROM_THE_OPERATOR = ("WANDB_MODE",)
# when this machine is all there is
FROM_THE_OPERATOR_HERE = ("WANDB_MODE", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE")
SECRET = re.compile(r"(_KEY|_TOKEN|_SECRET|PASSWORD)$")

# `colossalai run` exports every value as NAME="value" through a shell, and prints it on a failure.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNSAFE = re.compile(r"""["$`\\]|[^ -~]""")


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
        {**_threads(node, ranks, machine), **cluster.env_of(node.name)},
        run=run,
        bin_folder=Path(cluster.environment) if cluster.environment else machine.environment,
        operator=operator,
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
        **DEFAULTS,
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


def _threads(node: Node, ranks: int, machine: Machine) -> dict[str, str]:
    # Without a word, torchrun sets 1, and decoding and the optimizer crawl on a big machine.
    return {"OMP_NUM_THREADS": str(max(1, machine.cores // ranks))} if node.local else {}
