"""Settings of a cluster, the TOML file beside its hostfile; facts of this machine."""

import os
import random
import re
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import Literal

from soractl.cluster.notify import NotifySettings
from soractl.remote.ssh_command import SshOptions
from trainer.settings import load_toml

Kind = Literal["ssh", "slurm"]  # of a cluster: ssh, or the queue that its runs go through
EnvValue = str | int | Mapping[str, str | int]

LOCAL = Path("hostfiles/local.toml")
SLURM = Path("hostfiles/slurm.toml")  # of launches by `--slurm` alone
_GPU_NAME = re.compile(r"[0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+")  # not -1, not NoDevFiles
RANKS_WITHOUT_GPUS = 2  # so that even a laptop trains over a process group


@dataclass(frozen=True)
class ClockPolicy:
    """Limits beyond which a node's clock is bad; a step forward may be a cure."""

    max_offset_ms: float = 50.0  # from the machine that asks
    max_backward_step_ms: float = 10.0
    max_forward_step_ms: float | None = None  # None: any


@dataclass(frozen=True, kw_only=True)
class Silence:
    """Findings of `soractl health` that are known and do not count until a day has passed."""

    reason: str = ""
    until: date | None = None


@dataclass(frozen=True, kw_only=True)
class HealthSettings:
    """Settings of `soractl health`."""

    silence: Mapping[str, Silence] = field(default_factory=dict)  # by CHECK or CHECK@NODES


@dataclass(frozen=True, kw_only=True)
class SuperviseSettings:
    """Settings of `soractl supervise`."""

    min_nodes: int | None = None  # go on with as few, where no spare is left; else wait for all
    most_starts: int = 5  # within half an hour; then it gives up


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """Settings of `soractl eval`."""

    command: tuple[str, ...] = ()  # a program that measures videos: JSON in, JSON out
    timeout_s: float = 3600.0  # of that program, for one checkpoint


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Settings of jobs; what is left out is the queue's default."""

    nodes: int | None = None  # else as many as the host file lists, or one
    spares: int = 0  # more nodes, held in the job for a supervised run
    gpus_per_node: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # as sbatch takes it: minutes, or days-hours:minutes:seconds
    exclusive: bool = True  # whole nodes
    chain: int | None = None  # jobs one behind the other; else as Slurm lets a job be requeued
    lines: tuple[str, ...] = ()  # more options of sbatch, such as "--constraint=h100"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Settings of a cluster; those that its file leaves out are those of this machine."""

    kind: Kind = "ssh"  # else `launch` and `resume` go through its queue
    workdir: str | None = None  # the folder that all nodes share; else the current one
    environment: str | None = None  # the folder with `colossalai`; else that of this Python
    ranks_per_node: int | None = None  # where a hostfile's line has no slots
    master_port: int | None = None
    ssh: SshOptions = field(default_factory=SshOptions)
    # What the ranks get; a table in it holds what only nodes of a name such as "node-01*" get.
    env: Mapping[str, EnvValue] = field(default_factory=dict)
    clock: ClockPolicy = field(default_factory=ClockPolicy)
    health: HealthSettings = field(default_factory=HealthSettings)
    supervise: SuperviseSettings = field(default_factory=SuperviseSettings)
    slurm: JobSettings = field(default_factory=JobSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)
    eval: EvalSettings = field(default_factory=EvalSettings)
    price_per_gpu_hour: float | None = None  # in any currency; `report` multiplies by it
    price_per_kwh: float | None = None  # the same for the energy that a monitor saw

    @property
    def is_queued(self) -> bool:
        """Its runs go through a queue."""
        return self.kind != "ssh"

    @property
    def jobs(self) -> JobSettings:
        """Settings of the jobs of its queue."""
        return self.slurm

    def env_of(self, node: str) -> dict[str, str | int]:
        """The ranks' environment on a node; of two tables that fit, the later one wins."""
        env = {name: value for name, value in self.env.items() if not isinstance(value, Mapping)}
        for pattern, values in self.env.items():
            if isinstance(values, Mapping) and fnmatchcase(node, pattern):
                env |= values
        return env

    @property
    def env_names(self) -> list[str]:
        """Names of all variables that some node gets."""
        tables = [value for value in self.env.values() if isinstance(value, Mapping)]
        own = [name for name, value in self.env.items() if not isinstance(value, Mapping)]
        return list(dict.fromkeys([*own, *(name for table in tables for name in table)]))


@dataclass(frozen=True)
class Machine:
    """This machine, as far as ranks on it need it.

    >>> bin = Path("/shared/env/bin")
    >>> Machine(Path("/shared"), bin, gpus=8, cores=192, free_port=15832).gpus
    8
    """

    workdir: Path
    environment: Path
    gpus: int
    cores: int
    free_port: int


def load(hostfile: Path | None) -> tuple[Cluster, Path | None]:
    """The cluster of a hostfile, or of this machine, and its file, if there is one."""
    path = hostfile.with_suffix(".toml") if hostfile else LOCAL
    if not path.is_file():
        return Cluster(), None
    return load_toml(Cluster, path), path


def this_machine(environ: Mapping[str, str]) -> Machine:
    """The facts of this machine now."""
    return Machine(
        workdir=Path.cwd(),
        environment=Path(sys.executable).parent,
        gpus=_visible_gpus(environ),
        cores=len(os.sched_getaffinity(0)),
        free_port=_free_port(),
    )


def _visible_gpus(environ: Mapping[str, str]) -> int:
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        # As CUDA reads it: what stands behind the first name that is none is not seen.
        return len(list(takewhile(_GPU_NAME.fullmatch, chosen.replace(" ", "").split(","))))
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def _free_port() -> int:
    """Below those that the kernel deals out by itself: torchrun binds it seconds later."""
    while True:
        port = random.SystemRandom().randrange(15_000, 30_000)
        with suppress(OSError), socket.create_server(("", port)):
            return port
