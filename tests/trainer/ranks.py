"""Ranks that train a tiny model, forked from a process that has loaded all they need."""

import os
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

from tests.making import make_manifest
from trainer.checkpoints.checkpoint import TrainingState, restore
from trainer.checkpoints.saver import Saver
from trainer.config import CheckpointConfig, OptimConfig, TrainerConfig
from trainer.distributed.parallel import process_group
from trainer.distributed.zero import wrap_with_zero
from trainer.ema import Ema
from trainer.run_dir import RunDir

CLIPS = 12  # of a step, over all ranks
mp.get_context("forkserver").set_forkserver_preload(
    [__name__, "trainer.setup", "diffusers.models.autoencoders.autoencoder_kl"]
)

KEEP_ALL = CheckpointConfig(every_steps=0, keep_last=0, keep_every_steps=0)
OPTIM = OptimConfig(
    lr=1e-2,
    schedule="warmup",
    warmup_steps=0,
    cooldown_steps=0,
    weight_decay=0.01,
    betas=(0.9, 0.999),
    eps=1e-8,
    grad_clip=1.0,
    accumulate=1,
    ema_decay=0.9,
)


class Tiny(nn.Module):
    """Tensors of every kind: frozen, buffers, and lengths that no number of ranks divides."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.norm = nn.LayerNorm(7)
        self.scale = nn.Parameter(torch.ones(1))
        self.last = nn.Linear(7, 3)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x):
        self.seen += 1
        return self.last(self.norm(self.frozen(torch.tanh(self.first(x)))) * self.scale)


class Rank:
    """Training on one rank, with all that a checkpoint holds."""

    def __init__(self, ranks, folder, dtype="bf16", keep=KEEP_ALL):
        torch.manual_seed(0)
        self.ranks, self.run, self.dtype = ranks, RunDir(folder), dtype
        model = Tiny()
        trainer = TrainerConfig(dtype=dtype, compile=False, collective_timeout_s=60)
        self.wrapped, optimizer = wrap_with_zero(model, OPTIM, trainer)
        ema = Ema(optimizer.masters, OPTIM.ema_decay)
        self.state = TrainingState(model, optimizer, ema)
        self.saver = Saver(self.run, ranks, keep)
        self.step = 0

    def train(self, until):
        """Losses of the steps after the last one up to `until`."""
        losses = []
        while self.step < until:
            self.step += 1
            random = torch.Generator().manual_seed(self.step)
            x, y = (torch.randn(CLIPS, size, generator=random) for size in (5, 3))
            mine = slice(self.ranks.rank, None, self.ranks.world_size)
            dtype = self.state.model.scale.dtype
            loss = F.mse_loss(self.wrapped(x[mine].to(dtype)).float(), y[mine])
            self.state.optimizer.backward(loss)
            self.state.optimizer.step()
            self.state.optimizer.zero_grad()
            self.state.ema.update()
            losses.append(loss.item())
        return losses

    def save(self):
        """Begin to save the present step."""
        manifest = make_manifest(self.step, world_size=self.ranks.world_size)
        self.saver.save(self.state, manifest)

    def restore(self, checkpoint):
        """Go on where it was written."""
        restore(checkpoint, self.state, self.ranks)
        self.step = checkpoint.manifest.global_step

    def slices(self):
        """This rank's part of everything."""
        return slices(self.state)


def slices(state):
    """A rank's part of everything, to be compared with other ranks' and other times'."""
    found = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    found |= {f"ema.{name}": part for name, part in state.averages.items()}
    return {name: t.clone() for name, t in (found | state.optimizer_slices).items()}


def start(world_size, program, *arguments):
    """Start `program(*arguments)` on every rank, in the environment that torchrun would give it."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    context = mp.start_processes(
        _play,
        (world_size, store.port, program, arguments),
        nprocs=world_size,
        join=False,
        start_method="forkserver",
    )
    context.store = store  # as torchrun's, it outlives the ranks
    return context


def run(world_size, action, *arguments, ranks_per_node=None):
    """`action(ranks, *arguments)` on every rank in a process group, to its end."""
    context = start(world_size, in_group, ranks_per_node or world_size, action, arguments)
    while not context.join():
        pass


def _play(rank, world_size, port, program, arguments):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    program(*arguments)


def in_group(ranks_per_node, action, arguments):
    """`action(ranks, *arguments)` in a process group, as the program of a rank."""
    os.environ["LOCAL_RANK"] = str(int(os.environ["RANK"]) % ranks_per_node)
    with process_group(TrainerConfig(dtype="bf16", compile=False, collective_timeout_s=60)) as it:
        try:
            action(it, *arguments)
        except Exception:
            traceback.print_exc()  # of every rank: the first to end may only have lost the others
            raise


def whole(folder, name, world_size):
    """What `slices` of all ranks were, put together."""
    parts = [torch.load(Path(folder) / f"{name}-{rank}.pt") for rank in range(world_size)]
    found = {}
    shapes = {k.partition(".")[2]: v.numel() for k, v in parts[0].items() if k[:6] == "model."}
    for key in parts[0]:
        kind, _, tensor = key.partition(".")
        if kind in ("model", "step"):
            assert all(torch.equal(part[key], parts[0][key]) for part in parts)
            found[key] = parts[0][key]
        else:
            found[key] = torch.cat([part[key] for part in parts])[: shapes[tensor]]
    return found
