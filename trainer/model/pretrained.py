"""Start weights out of PixArt files, checkpoints and snapshots, every tensor checked."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainer.settings import UserError

_WHOLE_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.bin")
_PICKLED = (".pth", ".pt", ".bin")
_INDEX = re.compile(r"\.index\.(.+\.)?json$")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

_DROPPED = ("pos_embed", "pos_embed_temporal")  # tables that STDiT3 computes
_NULL_CAPTION = "y_embedder.y_embedding"
_PATCH_WEIGHT = "x_embedder.proj.weight"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # torch writes for a terminal
_CONSTANTS = re.compile(r"rope\.freqs")
_NOT_IN_PIXART = re.compile(
    r"rope\.freqs|fps_embedder\..+|temporal_blocks\..+|spatial_blocks\.\d+\.attn\.[qk]_norm\.weight"
)


class WeightsError(UserError, ValueError):
    """A file or folder does not hold the weights that it should."""


@dataclass(frozen=True)
class LoadReport:
    """Account of the model's tensors and of the file's: loaded, missing, left over."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # of the model; they keep their start values
    unexpected: tuple[str, ...]  # in the file, and not the model's
    mis_shaped: tuple[str, ...]
    dropped: tuple[str, ...]  # in the file, and known to be of no use

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        if self.missing:
            text += f", {len(self.missing)} keep their start values"
        return text + (f", {len(self.dropped)} of no use" if self.dropped else "")


def load_weights(model: nn.Module, weights: str | Path) -> LoadReport:
    """Fill `model` from a file, a folder, or a snapshot `owner/name` in the Hugging Face cache.

    WeightsError counts and names what is missing, left over or of another shape, and the model is
    then as it was. Only tensors that the kind of file cannot have may be missing: PixArt has no
    temporal blocks, for one. The file's tensors are held on the host until all of them fit.
    """
    path = find_snapshot(weights)
    targets = model.state_dict()
    unexpected, dropped = [], []
    fitting: dict[str, Tensor] = {}
    mis_shaped: dict[str, tuple[torch.Size, torch.Size]] = {}
    is_pixart = False
    for file_name, tensor in read_tensors(path):
        if file_name in _DROPPED:
            dropped.append(file_name)
            continue
        name = re.sub(r"^blocks\.", "spatial_blocks.", file_name)
        is_pixart |= name != file_name
        target = targets.get(name)
        if target is None:
            unexpected.append(file_name)
            continue
        tensor = _fit(name, tensor, target.shape)
        if tensor.shape == target.shape:
            fitting[name] = tensor
        else:
            mis_shaped[name] = (tensor.shape, target.shape)
    missing = [name for name in targets if name not in fitting and name not in mis_shaped]
    optional = _NOT_IN_PIXART if is_pixart else _CONSTANTS
    needed = [name for name in missing if not optional.fullmatch(name)]
    refuse(path, missing=needed, unexpected=unexpected, mis_shaped=mis_shaped)
    for name, tensor in fitting.items():
        targets[name].copy_(tensor)
    return LoadReport(
        tuple(fitting), tuple(missing), tuple(unexpected), tuple(mis_shaped), tuple(dropped)
    )


def refuse(
    path: Path,
    *,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    mis_shaped: Mapping[str, Sequence[torch.Size]],
) -> None:
    """WeightsError counts and names these tensors, if there are any; shapes are (found, wanted)."""
    shapes = [
        f"{name} is {_spell(found)} and should be {_spell(wanted)}"
        for name, (found, wanted) in mis_shaped.items()
    ]
    parts = (
        ("missing", missing),
        ("not the model's", unexpected),
        ("of another shape", shapes),
    )
    faults = [f"{len(names)} {what} ({', '.join(names)})" for what, names in parts if names]
    if faults:
        raise WeightsError(f"{path} does not fit the model; tensors: {'; '.join(faults)}")


def find_snapshot(weights: str | Path) -> Path:
    """The file or folder, or the folder of a repository in the Hugging Face cache; no download.

    WeightsError says where it was looked for.
    """
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if not _REPOSITORY.fullmatch(str(weights)) or path.suffix in (*_PICKLED, ".safetensors"):
        raise WeightsError(f"no file or folder {weights}")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(weights), local_files_only=True))
    except LocalEntryNotFoundError:
        raise WeightsError(
            f"no folder {weights} here, and no repository {weights} in the Hugging Face cache "
            f"{constants.HF_HUB_CACHE}; fetch it once with `hf download {weights}`"
        ) from None


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a file, of an index, or of a folder with one of them, on the host."""
    for file in _files(path):
        if file.suffix == ".safetensors":
            yield from _read_safetensors(file)
        elif file.suffix in _PICKLED:
            yield from _read_pickled(file).items()
        else:
            raise WeightsError(f"{file}: expected a .safetensors, {', '.join(_PICKLED)} file")


def _files(path: Path) -> list[Path]:
    if _INDEX.search(path.name):
        return _indexed(path)
    if path.is_file():
        return [path]
    folder = path / "model" if (path / "model").is_dir() else path
    indexes = sorted(folder.glob("*.index.*json"))
    if len(indexes) > 1:
        names = ", ".join(index.name for index in indexes)
        raise WeightsError(f"{folder} has more than one index: {names}")
    if indexes:
        return _indexed(indexes[0])
    whole = [folder / name for name in _WHOLE_FILES if (folder / name).is_file()]
    if not whole:
        raise WeightsError(f"{folder} has neither an index nor one of {', '.join(_WHOLE_FILES)}")
    return whole[:1]


def _indexed(index: Path) -> list[Path]:
    try:
        files = set(json.loads(index.read_text())["weight_map"].values())
        return [index.with_name(Path(file).name) for file in sorted(files)]
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise WeightsError(f"{index} is no index of files: {error}") from None


def _read_safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (a safetensors file is no mapping)
                yield name, tensors.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} cannot be read: {error}") from None


def _read_pickled(file: Path) -> Mapping[str, Tensor]:
    """A file of torch.save, of which nothing is run."""
    try:
        content = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except (OSError, EOFError, LookupError, RuntimeError, pickle.UnpicklingError) as error:
        reason = _COLOURS.sub("", str(error)).partition("\n")[0] or "it ends too early"
        raise WeightsError(f"{file} cannot be read as plain tensors: {reason}") from None
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{file} is no table of named tensors")
    return tensors


def _fit(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """Two tensors of image models have a shape of their own."""
    if name == _PATCH_WEIGHT and tensor.ndim == len(shape) - 1:
        return tensor.unsqueeze(2)  # one frame
    if name == _NULL_CAPTION and tensor.ndim == 2:
        more = max(0, shape[0] - len(tensor))
        return torch.cat((tensor, tensor[-1:].expand(more, -1)))[: shape[0]]
    return tensor


def _spell(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
