"""Tensors to and from a checkpoint: whole models as safetensors, the optimizer as ZeRO's shards."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.futures import Future

from trainer.atomic_files import sync_to_disk
from trainer.checkpoint_dir import Checkpoint
from trainer.checkpoints.integrity import CheckedReader, refuse_damaged, unreadable
from trainer.distributed.node_group import NodeGroup, node_of
from trainer.distributed.parallel import Ranks
from trainer.distributed.zero import ZeroOptimizer
from trainer.ema import Ema
from trainer.model.pretrained import WeightsError

INDEX = "model.safetensors.index.json"
_FILE_BYTES = 2**30
_PIECE_BYTES = 2**28  # torch rounds pinned memory up to a power of two: 10 GB would take 16


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

    @property
    def averages(self) -> dict[str, Tensor]:
        """This rank's flat slices of the averaged weights."""
        return dict(zip(self.trainable_names, self.ema.shards, strict=True))

    @property
    def optimizer_slices(self) -> dict[str, Tensor]:
        """This rank's flat slices, as `master.NAME` and `exp_avg.NAME`; `step.NAME` is a count."""
        moments = self.optimizer.optim.state
        if not moments:
            self.optimizer.begin()
        return {
            f"{kind}.{name}": tensor
            for name, master in zip(self.trainable_names, self.optimizer.masters, strict=True)
            for kind, tensor in {"master": master, **moments[master]}.items()
        }


@dataclass(frozen=True)
class Layout:
    """The spread of a whole model over files of at most 1 GiB, and of these over the ranks."""

    files: Mapping[str, tuple[str, ...]]  # tensors by file name
    shapes: Mapping[str, torch.Size]
    total_bytes: int
    world_size: int

    @cached_property
    def writers(self) -> Mapping[str, int]:
        """The rank that writes each file."""
        count = len(self.files)
        return {file: i * self.world_size // count for i, file in enumerate(self.files)}

    def files_of(self, rank: int) -> list[str]:
        """The files that one rank writes."""
        return [file for file in self.files if self.writers[file] == rank]

    def tensors_of(self, rank: int) -> list[str]:
        """The tensors in the files of one rank."""
        return [name for file in self.files_of(rank) for name in self.files[file]]

    @property
    def index(self) -> dict[str, Any]:
        """The index in which readers of such files look up names."""
        weight_map = {name: file for file, names in self.files.items() for name in names}
        return {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}


@dataclass(frozen=True)
class Snapshot:
    """A rank's part of a state, copied to the host to be written."""

    layouts: Mapping[str, Layout]  # of the folders model and ema
    model: Mapping[str, Tensor]  # whole tensors of this rank's files
    untrained: Mapping[str, Tensor]  # of this rank's EMA files, what no average is kept of
    averages: Mapping[str, Tensor]  # flat slices
    optimizer: Mapping[str, Tensor]  # flat slices


class HostMemory:
    """Holds copies of tensors, each time in the same memory: touching fresh pages takes longer."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], Tensor] = {}

    def copy(self, tensors: Mapping[tuple[str, str], Tensor]) -> dict[tuple[str, str], Tensor]:
        """The copies; they hold until the next call, which must have the same names and shapes."""
        if not self._places:
            self._places = _places_for(tensors)
        for key, tensor in tensors.items():
            self._places[key].copy_(tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        return self._places


def take_snapshot(state: TrainingState, ranks: Ranks, memory: HostMemory) -> Snapshot:
    """Copy to the host what this rank writes; it waits for no other rank."""
    tensors, averages, size = state.model.state_dict(), state.averages, ranks.world_size
    layouts = {
        "model": lay_out({name: (t.shape, t.nbytes) for name, t in tensors.items()}, size),
        "ema": lay_out({name: (t.shape, 4 * t.numel()) for name, t in tensors.items()}, size),
    }
    mine = {folder: layout.tensors_of(ranks.rank) for folder, layout in layouts.items()}
    parts = {
        "model": {name: tensors[name] for name in mine["model"]},
        "untrained": {name: tensors[name] for name in mine["ema"] if name not in averages},
        "averages": averages,
        "optimizer": state.optimizer_slices,
    }
    copies = memory.copy({(part, n): t for part, named in parts.items() for n, t in named.items()})
    found = {part: {name: copies[part, name] for name in named} for part, named in parts.items()}
    return Snapshot(layouts, **found)


def whole_models(
    snapshot: Snapshot, ranks: Ranks, group: dist.ProcessGroup
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The files that this rank writes, weights as trained and averages; all go through them all."""
    layout = snapshot.layouts["model"]
    for file in layout.files_of(ranks.rank):
        yield f"model/{file}", {name: snapshot.model[name] for name in layout.files[file]}
    layout = snapshot.layouts["ema"]
    for file, names in layout.files.items():
        slices = {name: snapshot.averages[name] for name in names if name in snapshot.averages}
        whole = _gather(slices, layout, layout.writers[file], ranks, group) if slices else {}
        if layout.writers[file] == ranks.rank:
            rest = {name: snapshot.untrained[name].float() for name in names if name not in slices}
            yield f"ema/{file}", whole | rest


class ShardWriter(dcp.FileSystemWriter):
    """Writes the optimizer's shards; OSError says why one could not be written.

    torch's archive notices only that its end is not where it should be, and says no more.
    """

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's part."""
        try:
            found: Future[list[WriteResult]] = super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        return found


def save_optimizer(
    folder: Path, snapshot: Snapshot, mesh: DeviceMesh, group: dist.ProcessGroup
) -> None:
    """Write this rank's masters and moments; every rank takes part."""
    shards = _sharded(snapshot.optimizer, snapshot.layouts["model"].shapes, mesh)
    dcp.save(shards, storage_writer=ShardWriter(folder), process_group=group)


def restore(checkpoint: Checkpoint, state: TrainingState, ranks: Ranks) -> None:
    """Weights, fp32 masters, moments and averages as they were, on any number of ranks.

    The whole models are read by one rank of each node, the optimizer's shards by whoever needs
    them; who reads a file compares its checksum first. WeightsError, on all ranks of a node that
    reads it, names what is damaged.
    """
    node, tensors = node_of(ranks), state.model.state_dict()
    # the optimizer's index is a pickle: nothing of it is run before it is known
    known = ("model/", "ema/", "optimizer/.metadata")
    files = [name for name in checkpoint.manifest.files if name.startswith(known)]
    node.run_on_reader(lambda: refuse_damaged(checkpoint, files))
    if node.is_reader:
        for name, tensor in read_whole(checkpoint.model):
            tensors[name].copy_(tensor)
    node.broadcast_from_reader(tensors.values())
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    _restore_averages(checkpoint.ema, state.averages, shapes, ranks, node)
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    shards = _sharded(state.optimizer_slices, shapes, mesh)
    try:
        dcp.load(shards, storage_reader=CheckedReader(checkpoint))
    except CheckpointException as error:
        raise unreadable(checkpoint, error) from None


def _restore_averages(
    folder: Path,
    averages: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    ranks: Ranks,
    node: NodeGroup,
) -> None:
    found = dict(read_whole(folder)) if node.is_reader else {}
    for name, shard in averages.items():
        whole = shard.new_empty(shapes[name])
        if node.is_reader:
            whole.copy_(found[name])
        node.broadcast_from_reader([whole])
        part = whole.flatten()[ranks.rank * shard.numel() :][: shard.numel()]
        shard[: part.numel()].copy_(part)


def read_whole(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder with an index, one at a time, on the host."""
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    for file in sorted(set(index.values())):
        try:
            with safe_open(folder / file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (a safetensors file is no mapping)
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise WeightsError(f"{folder / file} cannot be read: {error}") from None


def lay_out(tensors: Mapping[str, tuple[torch.Size, int]], world_size: int) -> Layout:
    """The files of a whole model; `tensors` holds the shape and the bytes of each."""
    files: list[list[str]] = [[]]
    room = _FILE_BYTES
    for name, (_, size) in tensors.items():
        if size > room and files[-1]:
            files.append([])
            room = _FILE_BYTES
        files[-1].append(name)
        room -= size
    return Layout(
        {
            f"model-{number:05d}-of-{len(files):05d}.safetensors": tuple(names)
            for number, names in enumerate(files, 1)
        },
        {name: shape for name, (shape, _) in tensors.items()},
        sum(size for _, size in tensors.values()),
        world_size,
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One file of a layout, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, metadata={"format": "pt"})
    sync_to_disk(path)


def write_index(folder: Path, layout: Layout) -> None:
    """Write the index in which readers of a layout's files look up names."""
    path = folder / INDEX
    path.write_text(json.dumps(layout.index, indent=2))
    sync_to_disk(path)


def _sharded(
    slices: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], mesh: DeviceMesh
) -> dict[str, Tensor]:
    """Slices as DTensors over their true length: ZeRO's slice is exactly Shard(0), but padded."""
    shards: dict[str, Tensor] = {}
    for key, tensor in slices.items():
        kind, _, name = key.partition(".")
        if kind == "step":
            shards[key] = tensor
            continue
        length = shapes[name].numel()
        mine = max(0, min(tensor.numel(), length - mesh.get_rank() * tensor.numel()))
        shards[key] = DTensor.from_local(
            tensor.detach()[:mine], mesh, [Shard(0)], shape=(length,), stride=(1,)
        )
    return shards


def _places_for(tensors: Mapping[tuple[str, str], Tensor]) -> dict[tuple[str, str], Tensor]:
    """Room on the host in pieces, since thousands of small pinned ones are slow to get."""
    places: dict[tuple[str, str], Tensor] = {}
    for dtype in {tensor.dtype for tensor in tensors.values()}:
        named = {key: tensor for key, tensor in tensors.items() if tensor.dtype == dtype}
        for piece in _in_pieces(named):
            lengths = [tensor.numel() for tensor in piece.values()]
            whole = torch.empty(sum(lengths), dtype=dtype, pin_memory=torch.cuda.is_available())
            parts = zip(piece.items(), whole.split(lengths), strict=True)
            places |= {key: part.view(tensor.shape) for (key, tensor), part in parts}
    return places


def _in_pieces(
    named: Mapping[tuple[str, str], Tensor],
) -> Iterator[dict[tuple[str, str], Tensor]]:
    piece: dict[tuple[str, str], Tensor] = {}
    size = 0
    for key, tensor in named.items():
        if piece and size + tensor.nbytes > _PIECE_BYTES:
            yield piece
            piece, size = {}, 0
        piece[key] = tensor
        size += tensor.nbytes
    yield piece


def _gather(
    slices: Mapping[str, Tensor],
    layout: Layout,
    writer: int,
    ranks: Ranks,
    group: dist.ProcessGroup,
) -> dict[str, Tensor]:
    """The whole tensors on `writer`, out of every rank's padded slices; nothing elsewhere."""
    mine = torch.cat(list(slices.values()))
    if ranks.rank != writer:
        dist.gather(mine, dst=writer, group=group)
        return {}
    gathered = [torch.empty_like(mine) for _ in range(ranks.world_size)]
    dist.gather(mine, gathered, dst=writer, group=group)
    lengths = [part.numel() for part in slices.values()]
    parts = zip(*(one.split(lengths) for one in gathered), strict=True)
    return {
        name: torch.cat(of_name)[: layout.shapes[name].numel()].view(layout.shapes[name])
        for name, of_name in zip(slices, parts, strict=True)
    }
