"""The guard of a run: steps whose gradient is not finite, or far above the usual, are left out.

Leaving out spikes follows PaLM (Chowdhery et al., arXiv 2204.02311, section 5.1), which skips
batches around them; here the step itself is skipped, by the median norm of the last ones.

The judgement is made of device tensors alone, so no step waits for it, and of the norm over all
ranks, so every rank judges alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MEMORY = 50  # accepted steps whose median is the usual norm; before there are as many, none spikes


class Memory(NamedTuple):
    """Gradient norms of the steps so far, on the device."""

    norms: Tensor  # fp32 [MEMORY], of the last accepted steps; infinite where there is none yet
    accepted: Tensor  # int64 scalars: steps so far
    skipped: Tensor
    in_a_row: Tensor  # steps left out since the last accepted one


def remember(norms: Sequence[float], skipped: int, device: torch.device) -> Memory:
    """The memory after some steps: norms of the last accepted ones, the oldest first."""
    padded = torch.full((MEMORY,), torch.inf)
    padded[: len(norms)] = torch.tensor(norms)
    counts = torch.tensor([len(norms), skipped, 0])
    return Memory(padded.to(device), *counts.to(device).unbind())


def judge(memory: Memory, norm: Tensor, spike_factor: float) -> tuple[Tensor, Memory]:
    """(skip, memory after the step) for a step of this gradient norm; scalars on the device."""
    skip = ~torch.isfinite(norm)
    if spike_factor:
        usual = memory.norms.sort().values[(MEMORY - 1) // 2]
        skip |= (memory.accepted >= MEMORY) & (norm > spike_factor * usual)
    here = torch.arange(MEMORY, device=norm.device) == memory.accepted % MEMORY
    return skip, Memory(
        norms=torch.where(here & ~skip, norm, memory.norms),
        accepted=memory.accepted + ~skip,
        skipped=memory.skipped + skip,
        in_a_row=torch.where(skip, memory.in_a_row + 1, 0),
    )


class Guard:
    """Judges each step of a run; a `spike_factor` of 0 leaves out only what is not finite."""

    def __init__(self, spike_factor: float = 0.0) -> None:
        self._spike_factor = spike_factor
        self._memory: Memory | None = None
        self._restored: tuple[Sequence[float], int] = ((), 0)

    def skips(self, norm: Tensor) -> Tensor:
        """True if a step of this gradient norm over all ranks is left out."""
        memory = self._memory or remember(*self._restored, norm.device)
        skip, self._memory = judge(memory, norm, self._spike_factor)
        return skip

    @property
    def counts(self) -> Tensor:
        """int64 [2] on the device: steps left out, in all and since the last accepted one."""
        if self._memory is None:
            return torch.tensor([self._restored[1], 0])
        return torch.stack([self._memory.skipped, self._memory.in_a_row])

    @property
    def recent_norms(self) -> list[float]:
        """Of the last accepted steps, the oldest first; waits for the device."""
        if self._memory is None:
            return list(self._restored[0])
        oldest = int(self._memory.accepted) % MEMORY
        norms = self._memory.norms.roll(-oldest)
        return [norm for norm in norms.tolist() if norm != torch.inf]

    def restore(self, norms: Sequence[float], skipped: int) -> None:
        """Go on where these were `recent_norms` and the number of steps left out."""
        self._memory, self._restored = None, (norms, skipped)
