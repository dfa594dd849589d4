"""The networks of a checkpoint, ready to sample: a prompt and its references become a video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer import config
from trainer.checkpoint_dir import Checkpoint
from trainer.checkpoints.checkpoint import read_whole
from trainer.data.decode import IMAGE_FPS, DecodeError, read_clip
from trainer.model import build as networks
from trainer.model.latent_size import latent_frames, latent_size
from trainer.precision import DTYPES
from trainer.rectified_flow import RectifiedFlow
from trainer.run_dir import run_of
from trainer.sampling.mask_strategy import MaskGroup, apply_mask_strategy
from trainer.sampling.prompts import Prompt
from trainer.seeds import derive_seed
from trainer.settings import ConfigError, UserError


@dataclass(frozen=True)
class Preset:
    """The size and speed of the videos to make, and how many parts follow one another."""

    frames: int
    height: int
    width: int
    fps: int
    loops: int = 1
    steps: int | None = None  # of the sampler; None: as the run's settings
    cfg_scale: float | None = None  # of the guidance; None: as the run's settings

    @property
    def folder(self) -> str:
        """The folder of a run's samples of this size."""
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Shot:
    """One of the videos that are sampled together."""

    prompt: Prompt
    seed: int
    number: int = 0  # among the videos of one prompt


Progress = Callable[[int, int], None]  # (sampling steps done, of how many)


class Sampler:
    """The networks of a run; the weights of its checkpoints take turns.

    >>> sampler = Sampler.of(checkpoint, "ema", torch.device("cpu"))
    >>> video = sampler.sample(parse_prompt("a cat"), Preset(51, 144, 256, 24), seed=42)
    """

    def __init__(self, settings: config.TrainConfig, device: torch.device) -> None:
        dtype = DTYPES[settings.trainer.dtype]
        self.settings = settings
        self._device, self._dtype = device, dtype
        self._model = networks.build_model(settings).to(device, dtype).eval().requires_grad_(False)
        self._vae = networks.build_vae(settings.vae, settings.seed, device=device, dtype=dtype)
        self._captions = networks.build_caption_encoder(
            settings.text_encoder, settings.seed, device=device, dtype=dtype
        )
        self._flow = RectifiedFlow(settings.flow)
        self._chunk = settings.vae.micro_frame_size
        self._features: dict[str, tuple[Tensor, Tensor]] = {}  # of texts, kept on the host

    @classmethod
    def of(cls, checkpoint: Checkpoint, weights: str, device: torch.device) -> "Sampler":
        """The networks of a checkpoint's run with its weights, `model` or `ema`."""
        sampler = cls(config.read(run_of(checkpoint.path).config_json), device)
        sampler.load(checkpoint, weights)
        return sampler

    def load(self, checkpoint: Checkpoint, weights: str) -> None:
        """Take the weights of another checkpoint of the same networks; UserError for others."""
        folder = checkpoint.ema if weights == "ema" else checkpoint.model
        try:
            self._model.load_state_dict(dict(read_whole(folder)))
        except RuntimeError as error:
            first = str(error).partition("\n")[2].strip().partition("\n")[0]
            raise UserError(
                f"{folder} holds another model than the run's config.json says: {first}"
            ) from None

    def sample(
        self,
        prompt: Prompt,
        preset: Preset,
        seed: int,
        *,
        number: int = 0,
        progress: Progress | None = None,
    ) -> Tensor:
        """One video, uint8 [T, H, W, 3], as `sample_together` makes it alone."""
        return self.sample_together([Shot(prompt, seed, number)], preset, progress)[0]

    @torch.no_grad()
    def sample_together(
        self, shots: Sequence[Shot], preset: Preset, progress: Progress | None = None
    ) -> list[Tensor]:
        """Videos, each uint8 [T, H, W, 3], whose sampling steps are shared.

        Noise depends on each one's seed, text, loop and number alone; on GPUs the last bits of
        products depend on their neighbours too. A loop begins with the last chunk of the one
        before it. ConfigError for a reference that cannot be read, and for a mask strategy that
        names what does not exist.
        """
        draws = [
            torch.Generator(self._device).manual_seed(derive_seed(shot.seed, "references"))
            for shot in shots
        ]
        references = [
            [
                self._encode(read_reference(path, preset.height, preset.width)[None], own)
                for path in shot.prompt.references
            ]
            for shot, own in zip(shots, draws, strict=True)
        ]
        videos: list[list[Tensor]] = [[] for _ in shots]  # the parts of each
        for loop in range(preset.loops):
            conditions = []
            for parts, known, shot, own in zip(videos, references, shots, draws, strict=True):
                groups = list(shot.prompt.mask_strategy)
                if parts:
                    groups.append(self._continue(loop, len(known)))
                    known.append(self._encode(parts[-1], own))
                conditions.append((known, groups))
            latents = self._latents(shots, preset, loop, conditions, progress)
            for parts, one in zip(videos, latents, strict=True):  # one by one: decoding is large
                decoded = self._vae.decode(one[None].to(self._dtype), preset.frames)
                parts.append(decoded.clamp(-1, 1))
        return [self._pixels(parts) for parts in videos]

    def _pixels(self, parts: Sequence[Tensor]) -> Tensor:
        shown = [parts[0], *(part[:, :, self._chunk :] for part in parts[1:])]
        pixels = (torch.cat(shown, dim=2)[0].float() + 1) * 127.5 + 0.5
        return pixels.to(torch.uint8).permute(1, 2, 3, 0).cpu()

    def _encode(self, video: Tensor, draws: torch.Generator) -> Tensor:
        """A video's latents [C, T, H, W]."""
        return self._vae.encode(video.to(self._device, self._dtype), draws)[0]

    def _continue(self, loop: int, reference: int) -> MaskGroup:
        """The end of a reference becomes the beginning of a loop."""
        frames = latent_frames(self._chunk, self._chunk)
        return MaskGroup(loop, reference, reference_start=-frames, length=frames)

    def _latents(
        self,
        shots: Sequence[Shot],
        preset: Preset,
        loop: int,
        conditions: Sequence[tuple[Sequence[Tensor], Sequence[MaskGroup]]],
        progress: Progress | None,
    ) -> Tensor:
        texts = [shot.prompt.text(loop) for shot in shots]
        drawn = [
            self._drawn(shot, preset, loop, *own)
            for shot, own in zip(shots, conditions, strict=True)
        ]
        z, again, frame_mask = (torch.cat(each) for each in zip(*drawn, strict=True))
        encoded = [self._encoded(text) for text in texts]
        y, caption_mask = (torch.cat(each) for each in zip(*encoded, strict=True))
        fps, flow = IMAGE_FPS if preset.frames == 1 else preset.fps, self.settings.flow
        sizes = {
            name: torch.full((len(shots),), float(size), dtype=self._dtype)
            for name, size in (("height", preset.height), ("width", preset.width))
        }
        return self._flow.sample(
            self._model,
            z,
            {
                "y": y,
                "mask": caption_mask,
                "fps": torch.full(
                    (len(shots),), float(fps), device=self._device, dtype=self._dtype
                ),
                **sizes,
            },
            self._model.null_caption,
            height=preset.height,
            width=preset.width,
            latent_frames=z.shape[2],
            frame_mask=None if bool((frame_mask == 1).all()) else frame_mask,
            noise=again,
            steps=preset.steps or flow.sampling_steps,
            cfg_scale=flow.cfg_scale if preset.cfg_scale is None else preset.cfg_scale,
            progress=progress,
        )

    def _drawn(
        self,
        shot: Shot,
        preset: Preset,
        loop: int,
        references: Sequence[Tensor],
        groups: Sequence[MaskGroup],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Noise with the references put in, more noise for frames that are edited, frame mask."""
        text = shot.prompt.text(loop)
        seed = derive_seed(shot.seed, text, loop, *([shot.number] if shot.number else ()))
        size = latent_size((preset.frames, preset.height, preset.width), self._chunk)
        draws = torch.Generator(self._device).manual_seed(seed)
        noise, again = (
            torch.randn((1, 4, *size), generator=draws, device=self._device, dtype=self._dtype)
            for _ in range(2)
        )
        chunk = latent_frames(self._chunk, self._chunk)
        try:
            z, mask = apply_mask_strategy(noise, [references], [groups], loop, align=chunk)
        except ValueError as fault:
            raise ConfigError([f"prompt {text!r}: {fault}"]) from None
        return z, again, mask

    def _encoded(self, text: str) -> tuple[Tensor, Tensor]:
        """A text's features and mask, both made once; the mask stays on the host."""
        if text not in self._features:
            features, mask = self._captions.encode([text])
            self._features[text] = features.cpu(), mask
        features, mask = self._features[text]
        return features.to(self._device), mask


def read_reference(path: Path, height: int, width: int) -> Tensor:
    """A picture or a whole video, float32 [3, T, H, W] in [-1, 1]; else ConfigError."""
    try:
        return read_clip(str(path), height, width)
    except DecodeError as error:
        raise ConfigError([f"reference {path} cannot be read: {error.reason}"]) from None
