"""Presets: sizes and lengths of the videos that are sampled from every checkpoint."""

from dataclasses import dataclass, fields
from pathlib import Path

from soractl.errors import SoractlError
from trainer.settings import load_toml


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Size and length of a video; None leaves a choice to the sampler, as for `soractl sample`."""

    frames: str
    resolution: str
    ratio: str
    fps: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    seed: int | None = None
    num_samples: int | None = None


# As Lambda's tutorial evaluates its runs.
PRESETS = {
    "low4s": Preset(frames="4s", resolution="360p", ratio="9:16"),
    "low16s": Preset(frames="16s", resolution="360p", ratio="9:16"),
    "high4s": Preset(frames="4s", resolution="720p", ratio="9:16"),
}


def find_preset(text: str, weights: str = "ema") -> tuple[str, Preset]:
    """A preset's name and itself: a known one, or a TOML file of one's own; else SoractlError.

    Videos of the raw weights stand beside those of the averages: `low4s-model` beside `low4s`.

    >>> find_preset("low4s", "model")[0]
    'low4s-model'
    """
    name, preset = _find(text)
    return (name if weights == "ema" else f"{name}-{weights}"), preset


def _find(text: str) -> tuple[str, Preset]:
    if text in PRESETS:
        return text, PRESETS[text]
    path = Path(text)
    if path.suffix != ".toml":
        raise SoractlError(
            f"no preset {text!r}",
            hint=f"{', '.join(PRESETS)}, or a .toml file with {', '.join(_KEYS)}",
        )
    return path.stem, load_toml(Preset, path)


_KEYS = tuple(field.name for field in fields(Preset))
