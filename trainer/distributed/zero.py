"""ColossalAI's ZeRO-2: each rank keeps 1/world_size of gradients, fp32 masters and moments."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import OptimConfig, TrainerConfig
from trainer.distributed.optimizer import begin_state, make_optimizer, prepare_step
from trainer.guard import Guard
from trainer.phases import Phases
from trainer.precision import DTYPES
from trainer.quiet_imports import quiet_imports

with quiet_imports():
    from colossalai.accelerator import get_accelerator, set_accelerator
    from colossalai.accelerator.cpu_accelerator import CpuAccelerator
    from colossalai.accelerator.cuda_accelerator import CudaAccelerator
    from colossalai.booster import Booster
    from colossalai.booster.plugin import LowLevelZeroPlugin
    from colossalai.booster.plugin.low_level_zero_plugin import LowLevelZeroModel
    from colossalai.zero.low_level import LowLevelZeroOptimizer

_BUCKET_M = 20  # mega-elements, as the reference


def choose_accelerator() -> None:
    """Have ColossalAI use the GPUs, or the CPU where there is none."""
    set_accelerator(CudaAccelerator() if torch.cuda.is_available() else _CpuStreams())


def wrap_with_zero(
    model: nn.Module,
    optim: OptimConfig,
    trainer: TrainerConfig,
    guard: Guard | None = None,
    phases: Phases | None = None,
) -> tuple[nn.Module, "ZeroOptimizer"]:
    """A model in the dtype of training, and AdamW over all ranks, as ColossalAI wraps them.

    The optimizer asks `guard` whether to leave a step out, and times itself in `phases`.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model = model.to(DTYPES[trainer.dtype])
    plugin = _ZeroPlugin(
        guard or Guard(),
        phases or Phases(),
        stage=2,
        precision=trainer.dtype,
        max_norm=optim.grad_clip,
        reduce_bucket_size_in_m=_BUCKET_M,
        overlap_communication=torch.cuda.is_available(),
        cast_inputs=False,  # timesteps and sizes keep their precision
    )
    model, optimizer, *_ = Booster(plugin=plugin).boost(model, make_optimizer(trainable, optim))
    return model, optimizer


@dataclass
class _Bucket:
    """Weights that travel together, and their gradients; a row is what a rank keeps of them."""

    parameters: list[nn.Parameter]
    masters: list[Tensor]  # this rank's fp32 row of each
    weights: list[Tensor]  # [ranks, row] of each, padded, in the parameter's own memory
    gradient: Tensor | None = None  # this rank's rows one after another, since the last step

    @property
    def lengths(self) -> list[int]:
        """Of this rank's rows."""
        return [len(master) for master in self.masters]


class ZeroOptimizer(LowLevelZeroOptimizer):
    """ColossalAI's ZeRO, but bucket by bucket where upstream's host walks over every tensor.

    It never waits for the device: norms are one reduction, bad steps are left out there. Buckets
    are alike on all ranks, and reduced in the same order, though gradients may come in another:
    they are cut once the first backward pass has shown the order on rank 0.
    """

    grad_norm: Tensor  # fp32 scalar of the last step, over all ranks, before clipping
    weight_norm: Tensor  # fp32 scalar, of what is trained, before the last step

    def __init__(self, *arguments: Any, guard: Guard, phases: Phases, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.guard, self.phases = guard, phases
        self._buckets: list[_Bucket] = []
        self._reduced = 0  # buckets of this pass
        self._came: dict[nn.Parameter, None] = {}  # whose gradient of this pass is there, in order
        self._earlier: dict[nn.Parameter, Tensor] = {}  # gradients of passes that met no others
        self._stream = get_accelerator().Stream() if self._overlap_communication else None

    @property
    def masters(self) -> list[Tensor]:
        """This rank's flat fp32 slice of every trainable tensor, padded to equal length."""
        return list(self._master_param_groups_of_current_rank[0])

    @property
    def working(self) -> list[nn.Parameter]:
        """The model's trainable tensors, in the order of `masters`."""
        return list(self._working_param_groups[0])

    def begin(self) -> None:
        """Make the state before the first step, which that step would make itself."""
        begin_state(self.optim, self.masters)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, averaged over all ranks; within `no_sync`, at the next call."""
        with self.phases.of("backward"), self._backward_context():
            (loss / dist.get_world_size()).backward()
        if not self.require_grad_sync:
            self._set_aside(self.working)
            return
        with self.phases.of("reduce"):
            self._buckets = self._buckets or self._cut()
            while self._reduced < len(self._buckets):
                self._reduce_next()
            self._reduced = 0
            self._came.clear()
            if self._stream:
                get_accelerator().current_stream().wait_stream(self._stream)

    def step(self, closure: None = None) -> None:
        """Update masters and weights, unless the guard leaves the step out."""
        for bucket in self._buckets:
            assert bucket.gradient is not None
            rows = bucket.gradient.float().split(bucket.lengths)
            for master, row in zip(bucket.masters, rows, strict=True):
                master.grad = row
        self._judge()
        self.optim.step()
        for bucket in self._buckets:
            for master in bucket.masters:
                master.grad = None
        self._all_gather_weights()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for parameter in self.working:
            parameter.grad = None
        self._earlier.clear()
        for bucket in self._buckets:
            bucket.gradient = None

    def _set_aside(self, parameters: list[nn.Parameter]) -> None:
        """Add this pass's gradients to those of earlier ones, all at once."""
        found = [parameter for parameter in parameters if parameter.grad is not None]
        again = [parameter for parameter in found if parameter in self._earlier]
        if again:
            torch._foreach_add_(
                [self._earlier[parameter] for parameter in again],
                [parameter.grad for parameter in again],
            )
        for parameter in found:
            self._earlier.setdefault(parameter, parameter.grad)
            parameter.grad = None

    def _add_to_bucket(self, param: nn.Parameter, group_id: int) -> None:
        """Upstream calls this as soon as a gradient of this pass is there."""
        self._came[param] = None
        while self._reduced < len(self._buckets) and all(
            parameter in self._came for parameter in self._buckets[self._reduced].parameters
        ):
            self._reduce_next()

    def _cut(self) -> list[_Bucket]:
        """Buckets of about equal size, in the order in which gradients came on rank 0."""
        parameters, masters = self.working, self.masters
        place = {parameter: number for number, parameter in enumerate(parameters)}
        late = [parameter for parameter in parameters if parameter not in self._came]
        order = torch.tensor([place[parameter] for parameter in (*self._came, *late)])
        dist.broadcast(order, src=0)
        buckets, room = [], 0
        for number in order.tolist():
            parameter = parameters[number]
            if room < parameter.numel():
                buckets.append(_Bucket([], [], []))
                room = self._reduce_bucket_size
            padded = self._working_param_to_padded_working_param[parameter]
            buckets[-1].parameters.append(parameter)
            buckets[-1].masters.append(masters[number])
            buckets[-1].weights.append(padded.view(dist.get_world_size(), -1))
            room -= parameter.numel()
        return buckets

    def _reduce_next(self) -> None:
        bucket = self._buckets[self._reduced]
        self._reduced += 1
        self._set_aside(bucket.parameters)
        rows = [
            _as_rows(self._earlier.pop(parameter, None), weight)
            for parameter, weight in zip(bucket.parameters, bucket.weights, strict=True)
        ]
        sums = torch.cat(rows, 1)
        if self._stream is None:
            self._reduce(bucket, sums)
            return
        sums.record_stream(self._stream)
        self._stream.wait_stream(get_accelerator().current_stream())
        with get_accelerator().stream(self._stream):
            self._reduce(bucket, sums)

    def _reduce(self, bucket: _Bucket, sums: Tensor) -> None:
        mine = sums.new_empty(sums.shape[1])
        dist.reduce_scatter_tensor(mine, sums.view(-1))
        bucket.gradient = mine if bucket.gradient is None else bucket.gradient.add_(mine)

    def _all_gather_weights(self) -> None:
        """Every rank's masters become the weights of all; one bucket travels while others pack."""
        travelling = []
        for bucket in self._buckets:
            mine = bucket.masters[0].new_empty(sum(bucket.lengths), dtype=self._dtype)
            torch._foreach_copy_(mine.split(bucket.lengths), bucket.masters)
            whole = mine.new_empty(dist.get_world_size(), len(mine))
            work = dist.all_gather_into_tensor(whole.view(-1), mine, async_op=True)
            travelling.append((bucket, whole, work))
        for bucket, whole, work in travelling:
            work.wait()
            torch.split_with_sizes_copy(whole, bucket.lengths, dim=1, out=bucket.weights)

    def _judge(self) -> None:
        """Norms over all ranks, and what follows from them: leave the step out, or clip it."""
        both = ([master.grad for master in self.masters], self.masters)
        squares = torch.stack(
            [torch.stack(torch._foreach_norm(tensors)).square().sum() for tensors in both]
        )
        dist.all_reduce(squares)
        self.grad_norm, self.weight_norm = squares.sqrt().unbind()
        divisor = None
        if self._clip_grad_norm > 0:
            divisor = ((self.grad_norm + 1e-6) / self._clip_grad_norm).clamp(min=1.0)
        prepare_step(self.optim, self.guard.skips(self.grad_norm), divisor)

    def _sanity_checks(self) -> None:  # upstream's also asks for a GPU
        dtypes = {p.dtype for group in self.optim.param_groups for p in group["params"]}
        if dtypes != {self._dtype}:
            raise ValueError(f"trainable tensors have different types: {dtypes}")


def _as_rows(gradient: Tensor | None, weight: Tensor) -> Tensor:
    """A gradient as its weight lies in memory, [ranks, row]; none is one of zeros."""
    if gradient is None:
        return torch.zeros_like(weight)
    flat, missing = gradient.flatten(), weight.numel() - gradient.numel()
    return (F.pad(flat, (0, missing)) if missing else flat).view_as(weight)


class _ZeroPlugin(LowLevelZeroPlugin):
    def __init__(self, guard: Guard, phases: Phases, **named: Any) -> None:
        super().__init__(**named)
        self._guard, self._phases = guard, phases

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
                optimizer,
                guard=self._guard,
                phases=self._phases,
                **self.zero_optim_kwargs,
                backward_context=wrapped._hook_context,
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
