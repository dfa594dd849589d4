"""Fingerprint of everything that decides an epoch's order, and with it a position in the data."""

from collections.abc import Mapping
from dataclasses import asdict

from trainer.checkpoint_dir import Checkpoint
from trainer.config import TrainConfig
from trainer.data.dataset import ClipTable
from trainer.remedy import Remedy, with_remedy
from trainer.seeds import derive_seed
from trainer.settings import ConfigError

_CLIPS, _ROWS = "the clips of data.path", "rows of data.path"


def fingerprint(clips: ClipTable, settings: TrainConfig, draw: int) -> dict[str, str]:
    """The data in short, for checkpoints; `draw` is the variant of the cached features."""
    buckets = asdict(settings.buckets).items()
    return {
        _CLIPS: clips.fingerprint,
        "buckets": str(derive_seed(str(settings.buckets))),
        "balance.window": str(settings.balance.window),
        "seed": str(settings.seed),
        "the variant of data.features": str(draw),
        _ROWS: str(len(clips)),
        **{f"buckets.{name}": str(derive_seed(str(value))) for name, value in buckets},
    }


def check_same_data(checkpoint: Checkpoint, now: Mapping[str, str]) -> None:
    """ConfigError says what has changed since: a position in the data means nothing in other."""
    then = checkpoint.manifest.data_fingerprint
    changed = [
        _change(name, then, now)
        for name, value in now.items()
        if name != _ROWS and not name.startswith("buckets.") and then.get(name) != value
    ]
    if changed:
        fault = (
            f"changed since {checkpoint.name}: {', '.join(changed)}; its weights can go on if the "
            "epoch begins anew"
        )
        raise with_remedy(ConfigError([fault]), Remedy(reset_data=True))


def _change(name: str, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The changes, as closely as the checkpoint knows them."""
    if name == _CLIPS and _ROWS in then:
        return f"{name} ({then[_ROWS]} rows then, {now[_ROWS]} now)"
    if name == "buckets":
        parts = [
            part
            for part, value in now.items()
            if part.startswith("buckets.") and then.get(part, value) != value
        ]
        return " and ".join(parts) or name
    return name
