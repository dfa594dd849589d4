"""One training step: clips to latents, rectified-flow loss, backward, optimizer, averages."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from trainer.checkpoints.checkpoint import TrainingState
from trainer.chunks import NoisedBatch, backward_in_chunks
from trainer.config import TrainConfig
from trainer.data.buckets import Bucket
from trainer.data.loader import Batch, SkippedClip
from trainer.frame_masks import draw_frame_masks
from trainer.model.flops import forward_flops
from trainer.model.text_encoder import CaptionEncoder, pad_captions
from trainer.model.vae import VideoVAE
from trainer.phases import Phases
from trainer.precision import DTYPES
from trainer.rectified_flow import RectifiedFlow
from trainer.remedy import Remedy, with_remedy
from trainer.seeds import derive_seed
from trainer.settings import UserError


class GpuMemoryError(UserError):
    """A micro batch does not fit; the remedy is a smaller `model.tokens_at_once`."""


@dataclass(frozen=True)
class MicroResult:
    """The losses of a micro batch; tensors stay on the device: no step waits for the host."""

    bucket: Bucket
    index: int  # of the micro batch in its epoch
    clips: int  # 0 if none could be read
    skipped: tuple[SkippedClip, ...]
    losses: Tensor  # [B]
    t: Tensor  # fp32 [B], timesteps
    flops: int  # of the diffusion model, forward and backward


@dataclass(frozen=True)
class StepResult:
    """The micro batches of a step on this rank, and its norms."""

    micro: tuple[MicroResult, ...]
    grad_norm: Tensor  # scalar, over all ranks, before clipping
    weight_norm: Tensor  # scalar, before the step
    lr: float  # of this step

    @property
    def loss(self) -> Tensor:
        """Scalar: the mean over the micro batches of their clips' mean; NaN if all are empty."""
        means = [one.losses.mean() for one in self.micro if one.clips]
        return torch.stack(means).mean() if means else torch.tensor(torch.nan)


@dataclass(frozen=True)
class TrainStep:
    """The networks, what trains them, and their settings."""

    config: TrainConfig
    device: torch.device
    vae: VideoVAE | None  # None where features are cached
    caption_encoder: CaptionEncoder | None
    flow: RectifiedFlow
    model: torch.nn.Module  # as ColossalAI wrapped it
    state: TrainingState
    lr_schedule: LambdaLR
    phases: Phases

    def run(self, batches: Iterable[Batch], count: int, epoch: int) -> StepResult:
        """Train on the mean of `count` micro batches; every draw depends on its batch alone.

        GpuMemoryError if one of them does not fit.
        """
        lr = self.lr_schedule.get_last_lr()[0]
        batches = iter(batches)
        micro = tuple(self._backward(batches, count, epoch) for _ in range(count))
        optimizer = self.state.optimizer
        with self.phases.of("optimizer"):
            optimizer.step()
            optimizer.zero_grad()
            self.lr_schedule.step()
            self.state.ema.update()
        return StepResult(micro, optimizer.grad_norm, optimizer.weight_norm, lr)

    def _backward(self, batches: Iterator[Batch], count: int, epoch: int) -> MicroResult:
        """Add the gradients of the next micro batch; an empty one has weight 0."""
        self.phases.begin_micro_step()
        with self.phases.of("data"):
            batch = next(batches)
        model, optimizer = self.state.model, self.state.optimizer
        with self._explaining_out_of_memory(batch.micro_batch.bucket):
            with self.phases.of("encode"):
                latents, conditions = self.encode(batch, epoch)
            noised = self._draw(batch, epoch, latents, conditions)
            losses = backward_in_chunks(
                self.flow,
                self.model,
                optimizer,
                noised,
                weight=0.0 if batch.is_empty else 1 / count,
                clips_at_once=model.clips_at_once(latents.shape),
            )
        size, _, frames, height, width = latents.shape
        tokens = int(conditions["mask"].sum())  # on the host
        flops = 3 * forward_flops(model.config, size, frames, height, width, tokens)
        return MicroResult(
            bucket=batch.micro_batch.bucket,
            index=batch.micro_batch.index,
            clips=0 if batch.is_empty else len(batch.rows),
            skipped=batch.skipped,
            losses=losses,
            t=noised.t,
            flops=flops,
        )

    @contextmanager
    def _explaining_out_of_memory(self, bucket: Bucket) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            now = self.config.model.tokens_at_once or bucket.tokens
            raise with_remedy(
                GpuMemoryError(
                    f"{bucket.batch_size} clips of {bucket.name} do not fit into the GPU's memory: "
                    f"{str(error).partition('. GPU')[0]}; a smaller model.tokens_at_once takes "
                    f"less of it (now {now})"
                ),
                Remedy(settings={"model.tokens_at_once": now // 2}),
            ) from error

    def _draw(
        self, batch: Batch, epoch: int, latents: Tensor, conditions: dict[str, Tensor]
    ) -> NoisedBatch:
        """The batch with timesteps, noise and frame masks, from seeds of its own."""
        key = (self.config.seed, epoch, batch.micro_batch.index)
        draws = torch.Generator(self.device).manual_seed(derive_seed(*key, "diffusion"))
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
        return NoisedBatch(latents, noise, t, conditions, frame_mask)

    @torch.no_grad()
    def encode(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents [B, 4, t, h, w] and the conditions that the model reads beside them."""
        return self._latents(batch, epoch), self._conditions(batch, epoch)

    def _latents(self, batch: Batch, epoch: int) -> Tensor:
        video = batch.video.to(self.device, self.dtype, non_blocking=True)
        if batch.is_encoded:
            return video
        assert self.vae is not None
        return self.vae.encode_each(video, self._clip_seeds(batch, epoch, "posterior"))

    def _conditions(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        y, caption_mask = self._encode_captions(batch)
        chance = self.config.model.caption_dropout
        seeds = self._clip_seeds(batch, epoch, "caption_dropout")
        dropped = [seed / 2**63 < chance for seed in seeds]
        # on the host, where the model reads their values, and in the dtype of published training
        size = torch.tensor([batch.height, batch.width], dtype=self.dtype)
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
        """The type of the model and of the latents."""
        return DTYPES[self.config.trainer.dtype]

    def _clip_seeds(self, batch: Batch, epoch: int, purpose: str) -> list[int]:
        return [derive_seed(self.config.seed, epoch, row, purpose) for row in batch.rows]
