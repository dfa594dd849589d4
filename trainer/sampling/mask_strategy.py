"""Mask strings: which frames of a video to sample are taken from references, and how firmly.

`loop,reference,reference start,target start,length,edit`, joined by `;`. What is left out at the
end of a group is 0, and 1 for the length. Frames are latent ones; a negative start counts from the
end; edit is 0 to keep the frames as they are, up to 1 to make them anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskGroup:
    """One group of a mask string."""

    loop: int = 0
    reference: int = 0
    reference_start: int = 0
    target_start: int = 0
    length: int = 1
    edit: float = 0.0


def parse_mask_strategy(text: str) -> list[MaskGroup]:
    """The groups of a mask string; ValueError says which one cannot be read."""
    return [_parse_group(group) for group in text.split(";")] if text else []


def apply_mask_strategy(
    z: Tensor,
    references: Sequence[Sequence[Tensor]],
    strategies: Sequence[Sequence[MaskGroup]],
    loop: int,
    *,
    align: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Noise [B, C, T, H, W] with reference latents put in, and the frame mask [B, T].

    `references[b]` are the latents [C, T, H, W] that `strategies[b]` chooses from. With `align`
    frames are moved to its multiples. ValueError for a reference or a frame that does not exist.
    """
    z = z.clone()
    frame_mask = torch.ones(z.shape[0], z.shape[2], device=z.device)
    for clip, groups in enumerate(strategies):
        for group in groups:
            if group.loop == loop:
                _apply(group, z[clip], frame_mask[clip], references[clip], align)
    return z, frame_mask


def nearest_multiple(frame: int, step: int, frames: int) -> int:
    """The nearest multiple of `step` that has a whole step behind it in a clip of `frames`."""
    quotient, rest = divmod(frame, step)
    if rest > step / 2 and quotient < frames // step - 1:
        quotient += 1
    return quotient * step


_DEFAULTS = ("0", "0", "0", "0", "1", "0")


def _parse_group(text: str) -> MaskGroup:
    given = text.split(",")
    *counts, edit = [*given, *_DEFAULTS[len(given) :]]
    try:
        loop, reference, source, target, length = map(int, counts)
        group = MaskGroup(loop, reference, source, target, length, float(edit))
    except ValueError:
        raise ValueError(
            f"mask strategy {text!r}: expected up to 6 numbers: "
            "loop,reference,reference start,target start,length,edit"
        ) from None
    if not 0 <= group.edit <= 1:
        raise ValueError(f"mask strategy {text!r}: edit is {group.edit:g}; expected 0 to 1")
    if group.length < 1:
        raise ValueError(f"mask strategy {text!r}: length is {group.length}; expected at least 1")
    return group


def _apply(
    group: MaskGroup, z: Tensor, frame_mask: Tensor, references: Sequence[Tensor], align: int | None
) -> None:
    if not 0 <= group.reference < len(references):
        raise ValueError(
            f"a mask strategy names reference {group.reference}; there are {len(references)}, "
            "counted from 0"
        )
    reference = references[group.reference]
    source = _start(group.reference_start, reference.shape[1], align)
    target = _start(group.target_start, z.shape[1], align)
    length = min(group.length, z.shape[1] - target, reference.shape[1] - source)
    z[:, target : target + length] = reference[:, source : source + length]
    frame_mask[target : target + length] = group.edit


def _start(frame: int, frames: int, align: int | None) -> int:
    if not -frames <= frame < frames:
        raise ValueError(f"a mask strategy names latent frame {frame} of {frames}")
    frame %= frames
    return nearest_multiple(frame, align, frames) if align else frame
