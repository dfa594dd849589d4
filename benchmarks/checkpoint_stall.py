"""Seconds that training stands still for a checkpoint: ours beside ColossalAI's.

Two ranks hold an STDiT3 of 100 million parameters with its optimizer and averages, bf16, and save
the same state in turn. The reference's way is `booster.save_model` and `save_optimizer`, sharded,
then every average gathered on all ranks and written by rank 0. A save's time is that of the slowest
rank, from a barrier on. Ours returns when the state is in host memory; what is behind (`wait`) is
checksummed and synced to the disk besides, which the reference never does.
"""

import argparse
import logging
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from colossalai.booster.plugin import LowLevelZeroPlugin
from torch.distributed.run import main as torchrun

from tests.making import make_manifest
from trainer.checkpoints.checkpoint import TrainingState
from trainer.checkpoints.saver import Saver
from trainer.config import CheckpointConfig, TrainerConfig, load_stage
from trainer.distributed.parallel import Ranks, process_group
from trainer.distributed.zero import wrap_with_zero
from trainer.ema import Ema
from trainer.manifest import Manifest
from trainer.model.stdit3 import STDiT3, STDiT3Config
from trainer.run_dir import RunDir

REPOSITORY = Path(__file__).resolve().parent.parent

SIZE = STDiT3Config(hidden_size=768, depth=5, num_heads=12)
TRAINER = TrainerConfig(dtype="bf16", compile=False, collective_timeout_s=600)
REFERENCE = "(a) ColossalAI, as the reference"
WAITED = "(b) ours, waited for"
OURS = "ours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; else temporary")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        with process_group(TRAINER) as ranks:
            compare(ranks, arguments.folder, arguments.rounds)
        return
    folder = tempfile.mkdtemp(prefix="soractl-checkpoint-", dir=arguments.folder)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would say so too, at length
    words = ["--rounds", str(arguments.rounds), "--folder", folder]
    try:
        torchrun(["--standalone", "--nproc-per-node=2", __file__, *words])
    finally:
        shutil.rmtree(folder)


def compare(ranks: Ranks, folder: Path, rounds: int) -> None:
    """Every way in turn, so that a slow minute of the machine meets all of them."""
    booster, wrapped, state = trained_once()
    saver = Saver(
        RunDir(folder), ranks, CheckpointConfig(every_steps=0, keep_last=1, keep_every_steps=0)
    )
    saver.preallocate_host_memory(state)  # as before the first step
    steps = iter(range(1, sys.maxsize))

    def ours() -> None:
        saver.save(state, manifest(next(steps), ranks.world_size))

    def ours_waited_for() -> None:
        ours()
        saver.wait()

    def reference() -> None:
        save_as_the_reference(booster, wrapped, state, ranks, folder / "reference")

    ways = {REFERENCE: reference, OURS: ours, WAITED: ours_waited_for}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            found[name].append(timed(way))
            saver.wait()
            if ranks.is_first:
                shutil.rmtree(folder / "reference", ignore_errors=True)
                os.sync()
    saver.close()
    if ranks.is_first:
        show(found, sum(p.numel() for p in state.model.parameters()))


def trained_once() -> tuple[Any, torch.nn.Module, TrainingState]:
    """A model with moments that a step has filled."""
    torch.manual_seed(0)
    optim = load_stage("stage1", folder=REPOSITORY / "configs").config.optim
    model = STDiT3(SIZE)
    wrapped, optimizer = wrap_with_zero(model, optim, TRAINER)
    optimizer.backward(sum(p.float().mean() for p in optimizer.working))
    optimizer.step()
    optimizer.zero_grad()
    booster = Booster(plugin=LowLevelZeroPlugin(stage=2))  # it saves what it did not wrap as well
    return booster, wrapped, TrainingState(model, optimizer, Ema(optimizer.masters, 0.99))


def save_as_the_reference(
    booster: Any, wrapped: torch.nn.Module, state: TrainingState, ranks: Ranks, folder: Path
) -> None:
    """All of it in the final folder; training goes on when rank 0 has written the averages."""
    booster.save_model(wrapped, str(folder / "model"), shard=True)
    booster.save_optimizer(
        state.optimizer, str(folder / "optimizer"), shard=True, size_per_shard=4096
    )
    dist.barrier()
    whole = dict(state.model.state_dict())
    for name, mine in state.averages.items():
        gathered = [torch.empty_like(mine) for _ in range(ranks.world_size)]
        dist.all_gather(gathered, mine)
        if ranks.is_first:
            shape = whole[name].shape
            whole[name] = torch.cat(gathered)[: shape.numel()].view(shape)
    if ranks.is_first:
        torch.save(whole, folder / "ema.pt")
    dist.barrier()


def manifest(step: int, world_size: int) -> Manifest:
    return make_manifest(step, world_size=world_size)


def timed(save: Callable[[], None]) -> float:
    """Seconds of the slowest rank."""
    dist.barrier()
    began = time.perf_counter()
    save()
    took = torch.tensor(time.perf_counter() - began)
    dist.all_reduce(took, dist.ReduceOp.MAX)
    return float(took)


def show(found: dict[str, list[float]], parameters: int) -> None:
    """The table; the first round apart, in which memory is touched for the first time."""
    print(f"{parameters / 1e6:.0f} M parameters on 2 ranks, {len(found[OURS]) - 1} rounds, medians")
    print(f"{os.cpu_count()} cores, {platform.release()}, torch {torch.__version__}")
    print(f"{'':34}{'s per save':>11}{'min - max':>15}{'first':>8}{'of (a)':>9}")
    whole = statistics.median(found[REFERENCE][1:])
    for name, (first, *times) in found.items():
        median = statistics.median(times)
        spread = f"{min(times):.2f} - {max(times):.2f}"
        print(f"{name:34}{median:11.3f}{spread:>15}{first:8.2f}{median / whole:9.3f}")


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main()
