"""Rectified flow: timesteps, training loss and sampling, as tensor maths alone.

t = 0 is data and t = `num_timesteps` is noise; a model predicts the velocity data - noise.
"""

from collections.abc import Callable, Mapping
from typing import Any, Required, TypedDict, Unpack

import torch
from torch import Tensor

from trainer.config import FlowConfig

Model = Callable[..., Tensor]  # (z, t, x_mask=..., **conditions) -> [B, C or 2C, T, H, W]

_BASE_PIXELS = 512 * 512  # a single frame of this size is trained without a shift of its timesteps


class Sampling(TypedDict, total=False):
    """What a call of `sample` says; what it leaves out is as the settings have it."""

    height: Required[float | Tensor]  # pixels, as for `transform`
    width: Required[float | Tensor]
    latent_frames: Required[int | Tensor]
    steps: int
    cfg_scale: float
    frame_mask: Tensor | None  # [B, T]: 1 = generate, 0 = keep, between = the strength of an edit
    generator: torch.Generator | None  # draws the noise of edited frames
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
        if config.sample_method == "uniform":
            share = torch.rand(batch_size, generator=generator, device=device)
        else:
            normal = torch.randn(batch_size, generator=generator, device=device)
            share = torch.sigmoid(normal * config.scale + config.loc)
        t = share * self._span
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
        """Shift t towards noise for large and long videos, since they hide noise better.

        Given as bf16 tensors, sizes are also computed with in bf16: the published weights were
        trained so.
        """
        ratio = (height * width / _BASE_PIXELS) ** 0.5 * latent_frames**0.5 * scale
        share = t / self._span
        return self._span * ratio * share / (1 + (ratio - 1) * share)

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
            z = torch.where(_over_latents(frame_mask), z, latents)
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
        """Where sampling stops on its way from noise to data, fp32 [steps]; the data is left out.

        `flow.transform_scale` shifts timesteps in training alone, as in the reference.
        """
        t = (1 - torch.arange(steps) / steps) * self._span
        if not self._config.use_timestep_transform:
            return t
        return self.transform(t, height=height, width=width, latent_frames=latent_frames)

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
        unconditional half. With a frame mask, z holds the reference latents of masked frames.
        """
        steps = how.get("steps", self._config.sampling_steps)
        cfg_scale = how.get("cfg_scale", self._config.cfg_scale)
        progress = how.get("progress")
        times = self.sampling_timesteps(
            steps, height=how["height"], width=how["width"], latent_frames=how["latent_frames"]
        )
        guided = _guided(model, conditions, null_caption, cfg_scale)
        edit = self._edit(how.get("frame_mask"), times, how.get("generator"))
        for step, (t, next_t) in enumerate(zip(times, [*times[1:], 0.0], strict=True)):
            everywhere = t.to(z.device).expand(len(z))
            kept = z
            moving, z = edit(step, z, everywhere)
            length = (t - next_t).item() / self._span
            moved = z + guided(z, everywhere, moving) * length
            z = moved if moving is None else torch.where(_over_latents(moving), moved, kept)
            if progress:
                progress(step + 1, steps)
        return z
