"""The text of a job for Slurm, and the command by which it starts the nodes' scripts."""

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from soractl.queue.interface import WARNING, Job

SCRIPT = """\
#!/bin/bash
# The job of {run}. Written by soractl; Slurm keeps a copy of its own and runs that again after a
# requeue. The program below takes the signals that Slurm sends to the batch shell.
{directives}
trap '' {warning} # until the program takes it: a warning that comes first must not end the job
{environment}
cd {workdir} || exit 1
exec {program}
"""

# --export=NONE leaves HOME empty; the node's script wants it, and who looks for processes the id.
# Where jobs share a node, Slurm says by CUDA_VISIBLE_DEVICES which GPUs are this one's.
NODE_PROGRAM = """\
export HOME="$2" SORACTL_RUN_ID="$3" GPUS="$CUDA_VISIBLE_DEVICES"
exec /bin/bash "$1/$SLURMD_NODENAME.sh\""""


def sbatch_text(job: Job) -> str:
    """The script that `sbatch` takes."""
    exports = (f"export {name}={shlex.quote(text)}" for name, text in job.environment.items())
    return SCRIPT.format(
        run=job.run.name,
        directives="\n".join(f"#SBATCH {line}" for line in _directives(job)),
        warning=WARNING,
        environment="\n".join(exports),
        workdir=shlex.quote(str(job.workdir)),
        program=shlex.join(job.program),
    )


def job_name(run: Path) -> str:
    """The name of a run's jobs, which no other run has: jobs of one name wait for each other.

    >>> job_name(Path("/shared/runs/007-stage2"))
    'soractl-007-stage2-01c8d1'
    """
    return f"soractl-{run.name}-{hashlib.sha256(str(run).encode()).hexdigest()[:6]}"


def on_all_nodes(nodes: Sequence[str], attempt: Path, run_id: str, home: str) -> tuple[str, ...]:
    """The command that runs an attempt's script of each node, once on every node."""
    return (
        *("srun", f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}"),
        *(f"--ntasks={len(nodes)}", "--ntasks-per-node=1"),
        # How it ended stands in files: the end of one node, or its loss where the job may live
        # on, must not end the others unseen.
        *("--kill-on-bad-exit=0", "--no-kill"),
        *("--export=NONE", "--overlap", "--cpu-bind=none"),
        *("/bin/bash", "-c", NODE_PROGRAM, "bash", str(attempt), home, run_id),
    )


def on_one_node(node: str, program: Sequence[str]) -> tuple[str, ...]:
    """The command that runs a program of ours on one node of the job, without GPUs."""
    return (
        *("srun", f"--nodelist={node}", "--nodes=1", "--ntasks=1", "--no-kill", "--overlap"),
        *("--gpus-per-node=0", "--cpu-bind=none", *program),
    )


def _directives(job: Job) -> list[str]:
    settings = job.settings
    lines = [
        f"--job-name={job_name(job.run)}",
        f"--comment={_quoted(f'run={job.run}')}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--output={_quoted(str(job.log).replace('%', '%%'))}",
        "--open-mode=append",  # one log over all restarts
        "--export=NONE",
        "--requeue=expedite" if job.expedite else "--requeue",
        f"--signal=B:{WARNING}@{job.lead_s}",
    ]
    chosen = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.time,
        "gpus-per-node": settings.gpus_per_node,
    }
    lines += [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    if settings.exclusive:
        lines.append("--exclusive")
    if job.outlives_nodes:
        lines.append("--no-kill")
    if job.exclude:
        lines.append(f"--exclude={','.join(job.exclude)}")
    return [*lines, *settings.lines]


def _quoted(value: str) -> str:
    return f'"{value}"' if " " in value else value
