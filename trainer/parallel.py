"""The process group, ColossalAI's ZeRO-2 plugin and its booster, on GPUs and on CPUs alike."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.config import OptimConfig, TrainerConfig
from trainer.guard import Guard
from trainer.phases import Phases
from trainer.precision import DTYPES

# What ColossalAI's imports say is about parts that are not used: apex, tensornvme, 4-bit weights.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from colossalai.accelerator import get_accelerator, set_accelerator
    from colossalai.accelerator.cpu_accelerator import CpuAccelerator
    from colossalai.accelerator.cuda_accelerator import CudaAccelerator
    from colossalai.booster import Booster
    from colossalai.booster.plugin import LowLevelZeroPlugin
    from colossalai.booster.plugin.low_level_zero_plugin import LowLevelZeroModel
    from colossalai.zero.low_level import LowLevelZeroOptimizer

_REDUCE_BUCKET_M = 20  # mega-elements, as the reference


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run's."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0


@contextmanager
def process_group(config: TrainerConfig) -> Iterator[Ranks]:
    """Join the group that torchrun describes in the environment; leave it together at the end."""
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available()
    set_accelerator(CudaAccelerator() if on_gpu else _CpuStreams())
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        # objects and host tensors travel over gloo, so that saving never waits for a GPU
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=config.collective_timeout_s),
        device_id=device if on_gpu else None,
    )
    yield Ranks(rank, local_rank, dist.get_world_size(), device)
    dist.barrier()
    dist.destroy_process_group()


def boost(
    model: nn.Module,
    optim: OptimConfig,
    trainer: TrainerConfig,
    guard: Guard | None = None,
    phases: Phases | None = None,
) -> tuple[Booster, nn.Module, "ZeroOptimizer"]:
    """Wrap model and AdamW for ZeRO-2: each rank keeps 1/world_size of fp32 masters and moments."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model = model.to(DTYPES[trainer.dtype])
    adamw = torch.optim.AdamW(
        trainable,
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,  # its kernel clips gradients and leaves out a step without asking the host
    )
    plugin = _ZeroPlugin(
        stage=2,
        precision=trainer.dtype,
        max_norm=optim.grad_clip,
        reduce_bucket_size_in_m=_REDUCE_BUCKET_M,
        overlap_communication=torch.cuda.is_available(),
        cast_inputs=False,  # timesteps and sizes keep their precision
    )
    booster = Booster(plugin=plugin)
    model, optimizer, *_ = booster.boost(model, adamw)
    optimizer.guard, optimizer.phases = guard or Guard(), phases or Phases()
    return booster, model, optimizer


class ZeroOptimizer(LowLevelZeroOptimizer):
    """ZeRO that never waits for the device: norms are one reduction, bad steps are left out there.

    Gradients of several `backward` add up until `step`.
    """

    guard: Guard
    phases: Phases
    grad_norm: Tensor  # fp32 scalar of the last step, over all ranks, before clipping
    weight_norm: Tensor  # fp32 scalar, of what is trained, before the last step

    @property
    def masters(self) -> list[Tensor]:
        """This rank's flat fp32 slice of every trainable tensor, padded to equal length."""
        return list(self._master_param_groups_of_current_rank[0])

    @property
    def working(self) -> list[nn.Parameter]:
        """The model's trainable tensors, in the order of `masters`."""
        return list(self._working_param_groups[0])

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, averaged over all ranks."""
        with self.phases.of("backward"), self._backward_context():
            loss.backward()
        with self.phases.of("reduce"):
            self._reduce_grad(self._partition_grads)
            if self._overlap_communication:  # upstream makes the host wait here
                for bucket in self.pg_to_bucket_store.values():
                    get_accelerator().current_stream().wait_stream(bucket.comm_stream)

    def _sanity_checks(self) -> None:  # upstream's also asks for a GPU
        dtypes = {p.dtype for group in self.optim.param_groups for p in group["params"]}
        if dtypes != {self._dtype}:
            raise ValueError(f"trainable tensors have different types: {dtypes}")

    def _compute_grad_norm(self, dp_pg: Any, gradients: list[Tensor], norm_type: int = 2) -> float:
        return 0.0  # upstream's loops over tensors on the host; see _unscale_and_clip_grads

    def _unscale_and_clip_grads(self, grad_groups_flat: list[Tensor], total_norm: float) -> None:
        both = (grad_groups_flat, self.masters)
        squares = torch.stack(
            [torch.stack(torch._foreach_norm(tensors)).square().sum() for tensors in both]
        )
        dist.all_reduce(squares)
        self.grad_norm, self.weight_norm = squares.sqrt().unbind()
        self.optim.found_inf = self.guard.skips(self.grad_norm).float()
        if self._clip_grad_norm > 0:
            scale = (self.grad_norm + 1e-6) / self._clip_grad_norm
            self.optim.grad_scale = scale.clamp(min=1.0)


class _ZeroPlugin(LowLevelZeroPlugin):
    def configure(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        criterion: Any = None,
        dataloader: Any = None,
        lr_scheduler: Any = None,
    ) -> tuple[Any, ...]:
        wrapped = LowLevelZeroModel(model, self.precision, cast_inputs=self.cast_inputs)
        if optimizer is not None:
            optimizer = ZeroOptimizer(
                optimizer, **self.zero_optim_kwargs, backward_context=wrapped._hook_context
            )
            wrapped.update_master_params = MethodType(optimizer.update_master_params, wrapped)
        return wrapped, optimizer, criterion, dataloader, lr_scheduler


class _CpuStreams(CpuAccelerator):
    """ColossalAI's CPU accelerator with the stream calls that ZeRO makes; upstream's raise."""

    def synchronize(self, device: Any = None) -> None:
        torch.cpu.synchronize()

    def Stream(self, device: Any = None, priority: int = 0, **kwargs: Any) -> torch.cpu.Stream:
        return torch.cpu.Stream()

    def current_stream(self, device: Any = None) -> torch.cpu.Stream:
        return torch.cpu.current_stream()

    def stream(self, stream_: torch.cpu.Stream) -> AbstractContextManager[Any]:
        return torch.cpu.stream(stream_)

    def empty_cache(self) -> None:
        pass
