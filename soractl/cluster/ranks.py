"""The ranks of a node: how many, and in which folder they run."""

from pathlib import Path

from soractl.cluster.settings import RANKS_WITHOUT_GPUS, Cluster, Machine
from soractl.errors import SoractlError
from soractl.remote.nodes import Node


def ranks_of(node: Node, cluster: Cluster, machine: Machine) -> int:
    """The number of processes of a node, one a GPU; SoractlError if nothing states it."""
    return node.slots or cluster.ranks_per_node or _ranks_here(node, machine)


def working_directory(cluster: Cluster, machine: Machine) -> Path:
    """Folder in which ranks run, on every node."""
    return Path(cluster.workdir) if cluster.workdir else machine.workdir


def _ranks_here(node: Node, machine: Machine) -> int:
    if not node.local:
        raise SoractlError(
            f"how many ranks does {node.name} run?",
            hint=f"write `{node.name} slots=8` into the hostfile, or ranks_per_node = 8 into the "
            ".toml beside it",
        )
    return machine.gpus or RANKS_WITHOUT_GPUS
