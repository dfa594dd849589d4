"""The allocation of Slurm that this process runs in, by its environment."""

from collections.abc import Mapping

from soractl.errors import SoractlError
from soractl.queue.interface import Allocation
from soractl.remote.nodes import parse_node_list


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
