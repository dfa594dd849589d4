"""Memory that a video takes where there is no GPU, reckoned before any network is loaded.

The kernel kills a process that takes more than there is, without a word about the size. What is
reckoned is the least that can be enough, so nothing is refused that would fit.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trainer.config import TrainConfig
from trainer.model.latent_size import MICRO_FRAMES, latent_size
from trainer.model.stdit3 import SIZES
from trainer.precision import DTYPES
from trainer.sampling.sampler import Preset
from trainer.settings import UserError

_GUIDED = 2  # clips that go through the model for each video
_PATCH = 2  # latents a token, each way
_WIDTHS_OF_MLP = 9  # its input, and four times as much before and after the GELU
_FP32_COPIES = 2 * 4  # bytes of a shown value while it becomes a pixel
_COLOURS = 3
_LIMITS = {  # of a control group, by its controller in /proc/self/cgroup
    "": "memory.max",
    "memory": "memory/memory.limit_in_bytes",
}


class TooLarge(UserError):
    """A video does not fit the memory of the GPU, or of a machine without one."""


def refuse_too_large(preset: Preset, settings: TrainConfig, available: int | None) -> None:
    """TooLarge where the least memory that a video takes is not there; it says what may fit."""
    least = least_bytes(settings, preset)
    if available is None or least <= available:
        return
    fitting = (one for one in smaller(preset) if least_bytes(settings, one) <= available)
    loops = f" in {preset.loops} loops" if preset.loops > 1 else ""
    raise TooLarge(
        f"{preset.frames} frames of {preset.height}x{preset.width}{loops} take at least "
        f"{least / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are available; "
        + _advice(preset, next(fitting, None))
    )


def _advice(preset: Preset, less: Preset | None) -> str:
    if less is None:
        return "not even one frame fits, take a smaller --resolution"
    changes = {"--loops": (preset.loops, less.loops), "--frames": (preset.frames, less.frames)}
    changed = [f"{name} {new}" for name, (old, new) in changes.items() if new != old]
    return f"{' '.join(changed)} may fit"


def smaller(preset: Preset) -> Iterator[Preset]:
    """The same in fewer loops, then in fewer frames, of whole chunks where there are some."""
    loops, frames = preset.loops, preset.frames
    while loops := loops // 2:
        yield replace(preset, loops=loops)
    while frames := frames // 2:
        frames -= frames % MICRO_FRAMES if frames > MICRO_FRAMES else 0
        yield replace(preset, frames=frames, loops=1)


def least_bytes(settings: TrainConfig, preset: Preset) -> int:
    """Bytes without which a video of this size cannot be made: its steps, or its pixels."""
    width = DTYPES[settings.trainer.dtype].itemsize
    size = preset.frames, preset.height, preset.width
    frames, rows, columns = (side or 0 for side in latent_size(size))
    tokens = _GUIDED * frames * (rows // _PATCH) * (columns // _PATCH)
    steps = tokens * _WIDTHS_OF_MLP * SIZES[settings.model.arch]["hidden_size"] * width
    a_frame = _COLOURS * preset.height * preset.width
    decoded = preset.loops * preset.frames
    shown = decoded - (preset.loops - 1) * settings.vae.micro_frame_size
    return max(steps, a_frame * (decoded * width + shown * _FP32_COPIES))


def available_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process can take: what the machine or its control group allows, and swap.

    None where the kernel gives no number.
    """
    memory = _memory_of_machine(root / "proc/meminfo")
    limits = _limits_of_groups(root)
    if "MemAvailable" in memory:
        limits.append(memory["MemAvailable"])
    return min(limits) + memory.get("SwapFree", 0) if limits else None


def _memory_of_machine(meminfo: Path) -> dict[str, int]:
    """Bytes by their name in /proc/meminfo."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


def _limits_of_groups(root: Path) -> list[int]:
    """Limits of this process's group and those around it; not their use, which has caches."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controller, name in (line.split(":", 2) for line in lines):
        if controller in _LIMITS:
            folder, _, file = _LIMITS[controller].rpartition("/")
            top = root / "sys/fs/cgroup" / folder
            group = top / name.lstrip("/")
            found += [_limit(each / file) for each in (group, *group.parents)]
    return [one for one in found if one is not None]


def _limit(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # `max` is no limit
        return None
