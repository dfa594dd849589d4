"""The allocation that this process runs in, by its environment."""

from collections.abc import Mapping
from dataclasses import dataclass

from soractl.errors import SoractlError
from soractl.remote.nodes import Node, parse_node_list


@dataclass(frozen=True)
class Allocation:
    """Nodes that Slurm gave to a job."""

    job_id: int
    nodes: tuple[Node, ...]
    restarts: int  # how often the job was requeued


def allocation(environ: Mapping[str, str]) -> Allocation | None:
    """The allocation around this process; SoractlError for one that no run can use."""
    if not environ.get("SLURM_JOB_ID"):
        return None
    job_id = environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environ:
        raise SoractlError(
            f"job {job_id} is part of a job array, whose tasks would train the same run",
            hint="submit one job a run: `soractl launch STAGE --slurm` from a login node",
        )
    if int(environ.get("SLURM_HET_SIZE", "1")) > 1:
        raise SoractlError(
            f"job {job_id} is a heterogeneous allocation; a run needs nodes of one kind",
            hint="allocate one component: `salloc --nodes=N`",
        )
    nodes = parse_node_list(environ.get("SLURM_JOB_NODELIST", ""))
    return Allocation(int(job_id), tuple(nodes), int(environ.get("SLURM_RESTART_COUNT", "0")))


def port_of(job_id: int) -> int:
    """A port for rank 0 that two jobs on one node do not share.

    >>> port_of(12)
    15012
    """
    return 15_000 + job_id % 15_000
