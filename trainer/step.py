"""One training step: clips to latents, rectified-flow loss, backward, optimizer, averages."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from trainer.checkpoint import TrainingState
from trainer.config import TrainConfig
from trainer.data.loader import Batch
from trainer.frame_masks import draw_frame_masks
from trainer.model.text_encoder import CaptionEncoder, pad_captions
from trainer.model.vae import VideoVAE
from trainer.precision import DTYPES
from trainer.rectified_flow import RectifiedFlow
from trainer.seeds import derive_seed


@dataclass(frozen=True)
class StepResult:
    """What a step found; tensors stay on the device, so that no step waits for the host."""

    loss: Tensor  # scalar, this rank's mean over its clips
    grad_norm: Tensor  # scalar, over all ranks, before clipping
    lr: float  # of this step
    clips: int


@dataclass(frozen=True)
class Trainee:
    """The networks, what trains them, and their settings."""

    config: TrainConfig
    device: torch.device
    vae: VideoVAE | None  # None where features are cached
    caption_encoder: CaptionEncoder | None
    flow: RectifiedFlow
    booster: Any  # ColossalAI's
    model: torch.nn.Module  # as the booster wrapped it
    state: TrainingState
    lr_schedule: LambdaLR

    def step(self, batch: Batch, epoch: int) -> StepResult:
        """Train on one micro batch; every draw depends on it alone, not on what came before."""
        lr = self.lr_schedule.get_last_lr()[0]
        loss = self._loss(batch, epoch)
        optimizer = self.state.optimizer
        self.booster.backward(loss, optimizer)
        optimizer.step()
        optimizer.zero_grad()
        self.lr_schedule.step()
        self.state.ema.update()
        clips = 0 if batch.is_empty else len(batch.rows)
        return StepResult(loss.detach(), optimizer.grad_norm, lr, clips)

    def _loss(self, batch: Batch, epoch: int) -> Tensor:
        """The mean loss of a batch; an empty one takes the same way with no weight."""
        key = (self.config.seed, epoch, batch.micro_batch.index)
        draws = torch.Generator(self.device).manual_seed(derive_seed(*key, "diffusion"))
        latents = self._latents(batch, epoch)
        frame_mask = draw_frame_masks(
            self.config.masks, latents.shape[2], self._clip_seeds(batch, epoch, "frame_mask")
        )
        t = self.flow.draw_timesteps(
            len(latents),
            draws,
            height=batch.height,
            width=batch.width,
            latent_frames=latents.shape[2],
        )
        noise = torch.randn(latents.shape, generator=draws, device=self.device, dtype=latents.dtype)
        if frame_mask is not None:
            frame_mask = frame_mask.to(self.device)
        loss = self.flow.training_loss(
            self.model, latents, noise, t, self._conditions(batch, epoch), frame_mask
        ).mean()
        return loss * 0.0 if batch.is_empty else loss

    @torch.no_grad()
    def _latents(self, batch: Batch, epoch: int) -> Tensor:
        video = batch.video.to(self.device, self.dtype, non_blocking=True)
        if batch.is_encoded:
            return video
        assert self.vae is not None
        return self.vae.encode_each(video, self._clip_seeds(batch, epoch, "posterior"))

    @torch.no_grad()
    def _conditions(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        y, caption_mask = self._encode_captions(batch)
        chance = self.config.model.caption_dropout
        seeds = self._clip_seeds(batch, epoch, "caption_dropout")
        dropped = [seed / 2**63 < chance for seed in seeds]
        size = torch.tensor(
            [batch.height, batch.width], dtype=self.dtype
        )  # on the host, as trained
        return {
            "y": y,
            "mask": caption_mask,
            "fps": batch.fps.to(self.device, self.dtype),
            "height": size[:1],
            "width": size[1:],
            "drop_captions": torch.tensor(dropped, device=self.device),
        }

    def _encode_captions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.caption_features is None:
            assert self.caption_encoder is not None
            return self.caption_encoder.encode(batch.captions)
        max_length = self.config.text_encoder.max_length
        y, caption_mask = pad_captions(batch.caption_features, max_length)
        return y.to(self.device, non_blocking=True), caption_mask

    @property
    def dtype(self) -> torch.dtype:
        """What the model and the latents are computed in."""
        return DTYPES[self.config.trainer.dtype]

    def _clip_seeds(self, batch: Batch, epoch: int, purpose: str) -> list[int]:
        return [derive_seed(self.config.seed, epoch, row, purpose) for row in batch.rows]
