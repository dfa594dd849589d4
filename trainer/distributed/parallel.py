"""The process group, on GPUs and on CPUs alike."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from trainer.config import TrainerConfig
from trainer.distributed.zero import choose_accelerator

warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


MEMORY_SHARE = 0.96  # of a GPU for tensors; NCCL, and kernels when they are first used, take more


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run's."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """True on the rank that speaks for all."""
        return self.rank == 0


def group_on_hosts(description: str, limit_s: float) -> dist.ProcessGroup:
    """A group of all ranks over gloo, whose collectives end after `limit_s` seconds.

    Every group has a limit of its own, since torch's is 30 minutes, and a description, by which
    the flight recorder names it.
    """
    limit = timedelta(seconds=limit_s)
    return dist.new_group(backend="gloo", timeout=limit, group_desc=description)


@contextmanager
def process_group(config: TrainerConfig) -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment; leave it together at the end."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available()
    choose_accelerator()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE)
    dist.init_process_group(
        # objects and host tensors travel over gloo, so that saving never waits for a GPU
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=config.collective_timeout_s),
        device_id=device if on_gpu else None,
    )
    yield Ranks(rank, local_rank, dist.get_world_size(), device)
    dist.barrier()
    dist.destroy_process_group()
