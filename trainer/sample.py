"""`python -m trainer.sample CHECKPOINT --prompt ...`: a checkpoint and prompts become videos."""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import torch
from torch import Tensor

from trainer import config, networks
from trainer.checkpoint import read_whole
from trainer.data.resolutions import frame_count, image_size
from trainer.model.latent_size import latent_size
from trainer.precision import DTYPES
from trainer.rectified_flow import RectifiedFlow
from trainer.run_dir import Checkpoint, RunDir, read_checkpoint, runs
from trainer.seeds import derive_seed
from trainer.settings import ConfigError

log = logging.getLogger("trainer")

_IMAGE_FPS = 120  # what the model was told for a single frame


@dataclass(frozen=True)
class Preset:
    """The size and speed of the videos to make."""

    frames: int
    height: int
    width: int
    fps: int

    @property
    def folder(self) -> str:
        """Where a run keeps samples of this size."""
        return f"{self.frames}x{self.height}x{self.width}"


class Sampler:
    """The networks of a checkpoint, ready to sample."""

    def __init__(self, checkpoint: Checkpoint, weights: str, device: torch.device) -> None:
        settings = config.read(checkpoint.path.parent.parent / "config.json")
        dtype = DTYPES[settings.trainer.dtype]
        model = networks.build_model(settings)
        folder = checkpoint.ema if weights == "ema" else checkpoint.model
        model.load_state_dict(dict(read_whole(folder)))
        self._settings, self._device, self._dtype = settings, device, dtype
        self._model = model.to(device, dtype).eval().requires_grad_(False)
        self._vae = networks.build_vae(settings.vae, settings.seed, device=device, dtype=dtype)
        self._captions = networks.build_caption_encoder(
            settings.text_encoder, settings.seed, device=device, dtype=dtype
        )
        self._flow = RectifiedFlow(settings.flow)

    @torch.no_grad()
    def sample(self, prompt: str, preset: Preset, seed: int) -> Tensor:
        """One video, uint8 [T, H, W, 3]; noise depends on `seed` and the prompt alone."""
        y, mask = self._captions.encode([prompt])
        frames, height, width = latent_size((preset.frames, preset.height, preset.width))
        draws = torch.Generator(self._device).manual_seed(derive_seed(seed, prompt))
        z = torch.randn(
            (1, 4, frames, height, width), generator=draws, device=self._device, dtype=self._dtype
        )
        fps = _IMAGE_FPS if preset.frames == 1 else preset.fps
        latents = self._flow.sample(
            self._model,
            z,
            {
                "y": y,
                "mask": mask,
                "fps": torch.tensor([float(fps)], device=self._device, dtype=self._dtype),
                "height": torch.tensor([preset.height], dtype=self._dtype),
                "width": torch.tensor([preset.width], dtype=self._dtype),
            },
            self._model.null_caption,
            height=preset.height,
            width=preset.width,
            latent_frames=frames,
        )
        video = self._vae.decode(latents.to(self._dtype), preset.frames)[0].float()
        pixels = (video.clamp(-1, 1) + 1) * 127.5 + 0.5
        return pixels.to(torch.uint8).permute(1, 2, 3, 0).cpu()


def write_video(video: Tensor, path: Path, fps: int) -> None:
    """uint8 [T, H, W, 3] as H.264 mp4, or PNG for one frame; under its name only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{path.name}")
    if len(video) == 1:
        av.VideoFrame.from_ndarray(video[0].numpy(), "rgb24").to_image().save(draft)
    else:
        _, height, width, _ = video.shape
        even = video[:, : height - height % 2, : width - width % 2].numpy()  # yuv420p halves both
        with av.open(str(draft), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
            stream.height, stream.width = even.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in even:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
    draft.replace(path)


def find_checkpoint(text: str, root: Path) -> Checkpoint:
    """A checkpoint, or the newest complete one of a run or of `latest`; else ConfigError."""
    path = Path(text)
    if (path / "checkpoint.json").exists() or "-global_step" in path.name:
        found = read_checkpoint(path)
        if isinstance(found, Checkpoint):
            return found
        raise ConfigError([f"{path} is no complete checkpoint: {found[1]}"])
    candidates = runs(root) if text == "latest" else [RunDir(path), RunDir(root / text)]
    complete = [checkpoint for run in candidates for checkpoint in run.checkpoints()]
    if not complete:
        looked = ", ".join(str(run.path) for run in candidates) or f"{root}/"
        raise ConfigError([f"no complete checkpoint in {looked}"])
    return complete[-1]


def main(arguments: list[str] | None = None) -> None:
    """Parse, sample every prompt, say where the videos are."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        checkpoint = find_checkpoint(options.checkpoint, options.runs)
        height, width = image_size(options.resolution, options.ratio)
        frames = frame_count(options.frames)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    preset = Preset(frames, height, width, options.fps)
    run = RunDir(checkpoint.path.parent.parent)
    step = f"global_step{checkpoint.manifest.global_step}"
    folder = options.out or run.samples / preset.folder / step
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = Sampler(checkpoint, options.weights, device)
    log.info("%s/%s, %s weights", run.name, checkpoint.name, options.weights)
    for number, prompt in enumerate(options.prompt):
        suffix = ".png" if frames == 1 else ".mp4"
        path = folder / f"sample_{number:04d}{suffix}"
        write_video(sampler.sample(prompt, preset, options.seed), path, preset.fps)
        log.info("%s", path)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer.sample", description=__doc__)
    parser.add_argument("checkpoint", help="a checkpoint folder, a run, or latest")
    parser.add_argument("--prompt", action="append", required=True, help="may be given again")
    parser.add_argument("--frames", default="51", help="a number, or 2s, 4s, 8s, 16s")
    parser.add_argument("--resolution", default="240p")
    parser.add_argument("--ratio", default="9:16", help="height:width")
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--weights", choices=("ema", "model"), default="ema")
    parser.add_argument("--out", type=Path, help="folder; default: samples/ in the run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs lie")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
