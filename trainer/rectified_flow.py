"""Rectified flow: timesteps, training loss and sampling, as tensor maths alone.

As Liu et al., arXiv 2209.03003. t = 0 is data and t = `num_timesteps` is noise; a model predicts
the velocity data - noise.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Required, TypedDict, Unpack

import torch
from torch import Tensor

from trainer.config import FlowConfig

Model = Callable[..., Tensor]  # (z, t, x_mask=..., **conditions) -> [B, C or 2C, T, H, W]

_BASE_PIXELS = 512 * 512  # a single frame of this size is trained without a shift of its timesteps


class Sampling(TypedDict, total=False):
    """Options of `sample`; those left out are as the settings have them."""

    height: Required[float | Tensor]  # pixels, as for `transform`
    width: Required[float | Tensor]
    latent_frames: Required[int | Tensor]
    steps: int
    cfg_scale: float
    frame_mask: Tensor | None  # [B, T]: 1 = generate, 0 = keep, between = the strength of an edit
    noise: Tensor | None  # [B, C, T, H, W] for frames that are edited; each takes its own once
    progress: Callable[[int, int], None] | None  # gets (steps done, steps)


class RectifiedFlow:
    """The flow of one configuration; it holds no state."""

    def __init__(self, config: FlowConfig) -> None:
        self._config = config
        self._span = config.num_timesteps

    def draw_timesteps(
        self,
        batch_size: int,
        generator: torch.Generator,
        *,
        height: float | Tensor,
        width: float | Tensor,
        latent_frames: int | Tensor,
    ) -> Tensor:
        """Timesteps to train on, fp32 [B], on the generator's device."""
        config, device = self._config, generator.device
        if config.use_discrete_timesteps:
            t = torch.randint(self._span, (batch_size,), generator=generator, device=device).float()
        elif config.sample_method == "uniform":
            t = torch.rand(batch_size, generator=generator, device=device) * self._span
        else:
            normal = torch.randn(batch_size, generator=generator, device=device)
            t = torch.sigmoid(normal * config.scale + config.loc) * self._span
        if not config.use_timestep_transform:
            return t
        return self.transform(
            t,
            height=height,
            width=width,
            latent_frames=latent_frames,
            scale=config.transform_scale,
        )

    def transform(
        self,
        t: Tensor,
        *,
        height: float | Tensor,
        width: float | Tensor,
        latent_frames: int | Tensor,
        scale: float | Tensor = 1.0,
    ) -> Tensor:
        """Shift t [B] towards noise for large and long videos, since they hide noise better.

        The timestep shift of SD3 (Esser et al., arXiv 2403.03206, equation 23), over frames too as
        in Open-Sora 1.2 (`opensora/schedulers/rf/rectified_flow.py`).

        Sizes may be bf16 tensors, and are then multiplied in bf16, as the published weights were
        trained; fp16 holds no product of height and width.
        """
        height, width, latent_frames = map(_not_in_fp16, (height, width, latent_frames))
        ratio = (height * width / _BASE_PIXELS) ** 0.5 * latent_frames**0.5 * scale
        share = t / self._span
        return ratio * share / (1 + (ratio - 1) * share) * self._span

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The point at t on the straight line from latents to noise; fp32 whatever they are."""
        share = (t.float() / self._span).view(-1, 1, 1, 1, 1)
        return (1 - share) * latents + share * noise

    def training_loss(
        self,
        model: Model,
        latents: Tensor,
        noise: Tensor,
        t: Tensor,
        conditions: Mapping[str, Any],
        frame_mask: Tensor | None,
    ) -> Tensor:
        """Squared error of the velocity, one value a clip: [B].

        Frames that `frame_mask` [B, T] has False stay clean and do not count.
        """
        z = self.add_noise(latents, noise, t)  # [B, C, T, H, W]
        if frame_mask is not None:
            frame_mask = frame_mask.bool()
            z = _choose(frame_mask, z, latents)
        velocity = model(z, t, x_mask=frame_mask, **conditions)[:, : latents.shape[1]]
        # the target has the precision of the latents, as the published weights were trained
        error = (velocity - (latents - noise)).square().mean(dim=(1, 3, 4))  # [B, T]
        if frame_mask is None:
            return error.mean(dim=1)
        return torch.where(frame_mask, error, 0).sum(dim=1) / frame_mask.sum(dim=1)

    def sampling_timesteps(
        self,
        steps: int,
        *,
        height: float | Tensor,
        width: float | Tensor,
        latent_frames: int | Tensor,
    ) -> Tensor:
        """Times at which sampling stops on its way from noise to data, fp32 [steps]; 0 is left out.

        Of sizes the first element counts: all videos of a batch have the same.
        `flow.transform_scale` shifts timesteps in training alone, as in the reference.
        """
        t = torch.tensor([(1 - step / steps) * self._span for step in range(steps)])
        if self._config.use_discrete_timesteps:
            t = t.round()
        if not self._config.use_timestep_transform:
            return t
        sizes = {"height": height, "width": width, "latent_frames": latent_frames}
        return self.transform(t, **{name: _first(size) for name, size in sizes.items()})

    def sample(
        self,
        model: Model,
        z: Tensor,
        conditions: Mapping[str, Any],
        null_caption: Tensor,
        **how: Unpack[Sampling],
    ) -> Tensor:
        """Noise z [B, C, T, H, W] to latents, fp32, by Euler steps with classifier-free guidance.

        `conditions["y"]` are captions [B, 1, L, D]; `null_caption` [L, D] takes their place in the
        unconditional half. Where the frame mask is below 1, z holds the reference's latents.
        """
        steps = how.get("steps", self._config.sampling_steps)
        times = self.sampling_timesteps(
            steps, height=how["height"], width=how["width"], latent_frames=how["latent_frames"]
        )
        velocity = _guided(
            model, conditions, null_caption, how.get("cfg_scale", self._config.cfg_scale)
        )
        frames = _frames_by_step(how.get("frame_mask"), times, self._span)
        ways = pairwise([*times.tolist(), 0.0])
        for step, ((moving, entering), (start, end)) in enumerate(zip(frames, ways, strict=True)):
            t = torch.full((len(z),), start, device=z.device)
            reference = z
            if entering is not None:
                z = self._enter(z, entering, how.get("noise"), t)
            moved = z + velocity(z, t, moving) * ((start - end) / self._span)
            z = moved if moving is None else _choose(moving, moved, reference)
            if progress := how.get("progress"):
                progress(step + 1, steps)
        return z

    def _enter(self, z: Tensor, entering: Tensor, noise: Tensor | None, t: Tensor) -> Tensor:
        if noise is None:
            raise ValueError("a frame mask between 0 and 1 needs `noise` for the frames it edits")
        return _choose(entering, self.add_noise(z, noise, t), z)


def _guided(
    model: Model, conditions: Mapping[str, Any], null_caption: Tensor, cfg_scale: float
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """(z, t, frames that move) -> velocity, led away from what the model makes of no caption."""
    captions = conditions["y"]
    # other conditions have one row a clip: the model repeats them for the second half
    both = {**conditions, "y": torch.cat([captions, null_caption.expand_as(captions)])}

    def velocity(z: Tensor, t: Tensor, moving: Tensor | None) -> Tensor:
        x_mask = None if moving is None else moving.to(z.device).repeat(2, 1)
        output = model(torch.cat([z, z]), t.repeat(2), x_mask=x_mask, **both)
        conditional, unconditional = output[:, : z.shape[1]].chunk(2)
        return unconditional + cfg_scale * (conditional - unconditional)

    return velocity


def _frames_by_step(
    frame_mask: Tensor | None, times: Tensor, span: int
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """For each step the frames that move, bool [B, T], and those of them that did not before.

    None for the first is all frames, None for the second is no frame.
    """
    if frame_mask is None:
        yield from [(None, None)] * len(times)
        return
    mask = frame_mask.float().cpu()  # on the host, so that no step waits for the device
    moving = mask == 1  # these hold noise from the start
    for t in times:
        entering = (mask * span >= t) & ~moving
        moving = moving | entering
        yield None if moving.all() else moving, entering if entering.any() else None


def _first(size: float | Tensor) -> float | Tensor:
    return size.flatten()[0] if isinstance(size, Tensor) else size


def _not_in_fp16(size: float | Tensor) -> float | Tensor:
    return size.float() if isinstance(size, Tensor) and size.dtype == torch.float16 else size


def _choose(frames: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
    """`there` for the frames [B, T] that are True, of latents [B, C, T, H, W]."""
    return torch.where(frames.to(there.device)[:, None, :, None, None], there, elsewhere)
