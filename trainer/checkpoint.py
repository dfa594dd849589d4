"""Tensors to and from a checkpoint: whole models as safetensors, the optimizer as ZeRO's shards."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from trainer.ema import Ema
from trainer.parallel import Ranks, ZeroOptimizer
from trainer.run_dir import Checkpoint

INDEX = "model.safetensors.index.json"
_FILE_BYTES = 2**30


@dataclass(frozen=True)
class TrainingState:
    """Everything that training changes."""

    model: nn.Module
    optimizer: ZeroOptimizer
    ema: Ema

    @property
    def trainable_names(self) -> list[str]:
        """Names in the order of the optimizer's tensors and of the averages."""
        name_of = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [name_of[id(parameter)] for parameter in self.optimizer.working]


@dataclass(frozen=True)
class WholeModel:
    """One model as files: what this rank writes, on the host, and the index of all of them."""

    mine: Mapping[str, Mapping[str, Tensor]]  # by file name
    index: Mapping[str, Any]


def stage_model(state: TrainingState, ranks: Ranks) -> WholeModel:
    """The weights as they are trained, copied to the host of the ranks that write them."""
    tensors = state.model.state_dict()
    return _stage_whole(tensors, lambda name, writer: tensors[name], ranks)


def stage_ema(state: TrainingState, ranks: Ranks) -> WholeModel:
    """The averaged weights, fp32, gathered out of the ranks' slices."""
    tensors = state.model.state_dict()
    averages = dict(zip(state.trainable_names, state.ema.shards, strict=True))

    def average(name: str, writer: int) -> Tensor:
        if name in averages:
            return _gather(averages[name], tensors[name].shape, writer, ranks)
        return tensors[name].float()

    shapes = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    return _stage_whole(shapes, average, ranks)


def restore(checkpoint: Checkpoint, state: TrainingState, ranks: Ranks) -> None:
    """Weights, fp32 masters, moments and averages as they were, on any number of ranks."""
    tensors = state.model.state_dict()
    for name, tensor in read_whole(checkpoint.model):
        tensors[name].copy_(tensor)
    averages = dict(zip(state.trainable_names, state.ema.shards, strict=True))
    for name, tensor in read_whole(checkpoint.ema):
        if name in averages:
            shard = averages[name]
            part = tensor.flatten()[ranks.rank * shard.numel() :][: shard.numel()]
            shard[: part.numel()].copy_(part)
    _fill_moments(state.optimizer)
    dcp.load(optimizer_shards(state, ranks), checkpoint_id=checkpoint.optimizer)


def read_whole(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder with an index, one at a time, on the host."""
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    for file in sorted(set(index.values())):
        with safe_open(folder / file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a safetensors file is no mapping)
                yield name, tensors.get_tensor(name)


def optimizer_shards(state: TrainingState, ranks: Ranks) -> dict[str, Tensor]:
    """Masters and moments as DTensors over their true length: ZeRO's slice is exactly Shard(0)."""
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    moments = state.optimizer.optim.state
    shards: dict[str, Tensor] = {}
    pairs = zip(state.optimizer.working, state.optimizer.masters, strict=True)
    for name, (parameter, master) in zip(state.trainable_names, pairs, strict=True):
        length = parameter.numel()
        mine = max(0, min(master.numel(), length - ranks.rank * master.numel()))
        for kind, tensor in {"master": master, **moments[master]}.items():
            if kind == "step":
                shards[f"step.{name}"] = tensor
            else:
                shards[f"{kind}.{name}"] = DTensor.from_local(
                    tensor.detach()[:mine], mesh, [Shard(0)], shape=(length,), stride=(1,)
                )
    return shards


def _fill_moments(optimizer: ZeroOptimizer) -> None:
    """AdamW's state as it is before its first step, for a checkpoint to be read into."""
    for master in optimizer.masters:
        optimizer.optim.state[master] = {
            "step": torch.zeros((), dtype=torch.float32, device=master.device),
            "exp_avg": torch.zeros_like(master),
            "exp_avg_sq": torch.zeros_like(master),
        }


def _stage_whole(
    shapes: Mapping[str, Tensor], tensor_of: Callable[[str, int], Tensor], ranks: Ranks
) -> WholeModel:
    """Files of at most 1 GiB, spread over the ranks; all call `tensor_of(name, writer)` alike."""
    files = _split(shapes)
    mine: dict[str, dict[str, Tensor]] = {}
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files):
        file = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        writer = number * ranks.world_size // len(files)
        whole = {name: tensor_of(name, writer).detach() for name in names}
        if ranks.rank == writer:
            mine[file] = {name: _to_host(tensor) for name, tensor in whole.items()}
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.nbytes for tensor in shapes.values())
    return WholeModel(mine, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _to_host(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _split(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    files: list[list[str]] = [[]]
    room = _FILE_BYTES
    for name, tensor in tensors.items():
        if tensor.nbytes > room and files[-1]:
            files.append([])
            room = _FILE_BYTES
        files[-1].append(name)
        room -= tensor.nbytes
    return files


def _gather(shard: Tensor, shape: torch.Size, writer: int, ranks: Ranks) -> Tensor:
    """The whole tensor on `writer` out of every rank's padded flat slice; elsewhere the slice."""
    mine = ranks.rank == writer
    parts = [torch.empty_like(shard) for _ in range(ranks.world_size)] if mine else None
    dist.gather(shard, parts, dst=writer)
    return torch.cat(parts)[: shape.numel()].view(shape) if parts else shard
