"""Identity of cached features: the settings they depend on, so that no others are trained on."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from trainer.config import TrainConfig
from trainer.data.dataset import ClipTable
from trainer.data.features import FeatureSet, Kind, sets_in
from trainer.model.pretrained import WeightsError, find_snapshot
from trainer.remedy import Remedy, with_remedy
from trainer.settings import ConfigError, dump

log = logging.getLogger("trainer")

_FILES_THAT_COUNT = (".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt")
_BLOCKS, _BLOCK_BYTES = 16, 2**16
_LONGEST_SHOWN = 40  # characters of a value in a message; digests say nothing


def made_with(kind: Kind, settings: TrainConfig, clips: ClipTable) -> dict[str, str]:
    """All that decides a clip's features; WeightsError if the encoder's weights are not here."""
    encoder = settings.text_encoder if kind == "text" else settings.vae
    weights = _identity_of(encoder.weights, settings.seed)
    return {**_without_weights(kind, settings, clips), _weights(kind): weights}


def matching_set(
    folder: Path, kind: Kind, settings: TrainConfig, clips: ClipTable
) -> FeatureSet | None:
    """The complete set that was made with these settings, or None if there is none of this kind.

    Weights that are not here are not compared. ConfigError says what differs in the set that comes
    nearest, or that it is not complete.
    """
    sets = sets_in(folder, kind)
    if not sets:
        return None
    try:
        wanted = made_with(kind, settings, clips)
    except WeightsError as error:
        log.warning("%s features are not checked against %s: %s", kind, _weights(kind), error)
        wanted = _without_weights(kind, settings, clips)
    nearest = min(sets, key=lambda features: len(_differences(features, wanted)))
    if differences := _differences(nearest, wanted):
        fault = f"was made with other settings: {', '.join(differences)}"
    elif nearest.index is None:
        fault = "is not complete"
    else:
        return nearest
    refusal = ConfigError([f"data.features: {nearest.path} {fault}"])
    raise with_remedy(refusal, Remedy(encode_features=folder))


def _weights(kind: Kind) -> str:
    return "text_encoder.weights" if kind == "text" else "vae.weights"


def _without_weights(kind: Kind, settings: TrainConfig, clips: ClipTable) -> dict[str, str]:
    own = _text(settings, clips) if kind == "text" else _video(settings, clips)
    return {**own, "trainer.dtype": settings.trainer.dtype}


def _differences(features: FeatureSet, wanted: Mapping[str, str]) -> list[str]:
    made_with = features.made_with
    return [
        f"{name} is {value}, there {made_with.get(name)}" if len(value) < _LONGEST_SHOWN else name
        for name, value in wanted.items()
        if made_with.get(name) != value
    ]


def _text(settings: TrainConfig, clips: ClipTable) -> dict[str, str]:
    encoder = settings.text_encoder
    captions = hashlib.sha256("\0".join(clips.captions).encode())
    return {
        "the captions of data.path": captions.hexdigest(),
        "text_encoder.arch": encoder.arch,
        "text_encoder.max_length": str(encoder.max_length),
        "text_encoder.clean_captions": str(encoder.clean_captions).lower(),
    }


def _video(settings: TrainConfig, clips: ClipTable) -> dict[str, str]:
    """Not the batch sizes of the buckets, which decide no clip's bucket."""
    buckets = dump(settings.buckets)
    return {
        "the clips of data.path": clips.fingerprint,
        "seed": str(settings.seed),
        "buckets.frames": str(buckets["frames"]),
        "buckets.keep": str(buckets["keep"]),
        "vae.arch": settings.vae.arch,
        "vae.micro_frame_size": str(settings.vae.micro_frame_size),
    }


def _identity_of(weights: str | None, seed: int) -> str:
    """The same wherever the files lie."""
    if weights is None:
        return f"random of seed {seed}"
    path = find_snapshot(weights)
    if path.is_file():
        return _digest({"": path})
    inside = sorted(file for file in path.rglob("*") if file.suffix in _FILES_THAT_COUNT)
    return _digest({str(file.relative_to(path)): file for file in inside})


def _digest(files: Mapping[str, Path]) -> str:
    """Of names, sizes and evenly spaced blocks: no two trainings leave the same bytes in these."""
    digest = hashlib.sha256()
    for name, path in files.items():
        size = path.stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        with path.open("rb") as file:
            for block in range(_BLOCKS):
                file.seek(size * block // _BLOCKS)
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
