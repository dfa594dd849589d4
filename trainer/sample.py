"""`python -m trainer.sample CHECKPOINT --prompt ...`: a checkpoint and prompts become videos."""

import argparse
import logging
import sys
from pathlib import Path

from trainer import packages
from trainer.checkpoint_dir import DRAFT, Checkpoint, read_checkpoint, step_and_epoch
from trainer.data.resolutions import frame_count, image_size
from trainer.manifest import MANIFEST
from trainer.model.latent_size import MICRO_FRAMES
from trainer.run_dir import RunDir, run_of, runs
from trainer.settings import ConfigError, UserError

with packages.needed():
    import av
    import torch
    from torch import Tensor

    from trainer.checkpoints.integrity import files_of, refuse_damaged
    from trainer.sampling.prompts import Prompt, Scores, parse_prompt, read_prompts
    from trainer.sampling.sampler import Preset, Sampler, read_reference

log = logging.getLogger("trainer")


class NoCheckpoint(ConfigError):
    """There is nothing to sample from; soractl's exit code for that is 6."""


def write_video(video: Tensor, path: Path, fps: int) -> None:
    """uint8 [T, H, W, 3] as H.264 mp4, or PNG for one frame; under its name only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{path.name}")
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
    """A checkpoint, or the newest complete one of a run or of `latest`; else NoCheckpoint."""
    path = Path(text)
    if (path / MANIFEST).exists() or step_and_epoch(path.name):
        found = read_checkpoint(path)
        if isinstance(found, Checkpoint):
            return found
        raise NoCheckpoint([f"{path} is no complete checkpoint: {found.reason}"])
    paths = dict.fromkeys((path, root / text))  # one, where `text` is absolute
    candidates = runs(root) if text == "latest" else [RunDir(path) for path in paths]
    complete = [checkpoint for run in candidates for checkpoint in run.checkpoints()]
    if not complete:
        looked = ", ".join(str(run.path) for run in candidates) or f"{root}/"
        raise NoCheckpoint([f"no complete checkpoint in {looked}"])
    return complete[-1]


def main(arguments: list[str] | None = None) -> None:
    """Parse, sample every prompt, say where the videos are."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _sample(options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(6 if isinstance(error, NoCheckpoint) else 2) from None


def _sample(options: argparse.Namespace) -> None:
    prompts = _prompts(options)
    preset = _preset(options)
    checkpoint = find_checkpoint(options.checkpoint, options.runs)
    run = run_of(checkpoint.path)
    step = f"global_step{checkpoint.manifest.global_step}"
    folder = options.out or run.samples / preset.folder / step
    for path in {path for prompt in prompts for path in prompt.references}:
        read_reference(path, preset.height, preset.width)  # before networks are loaded for nothing
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with checkpoint.being_read():
        refuse_damaged(checkpoint, files_of(checkpoint, checkpoint.path / options.weights))
        sampler = Sampler(checkpoint, options.weights, device)
    log.info("%s/%s, %s weights", run.name, checkpoint.name, options.weights)
    for number, prompt in enumerate(prompts):
        suffix = ".png" if preset.frames == 1 else ".mp4"
        path = folder / f"sample_{number:04d}{suffix}"
        write_video(sampler.sample(prompt, preset, options.seed), path, preset.fps)
        log.info("%s", path)


def _prompts(options: argparse.Namespace) -> list[Prompt]:
    lines = [*options.prompt, *(read_prompts(options.prompts) if options.prompts else ())]
    if not lines:
        raise ConfigError(["nothing to sample; give --prompt TEXT or --prompts FILE"])
    scores = Scores(options.aesthetic_score, options.motion_score, options.camera_motion)
    given = {"references": options.reference, "mask_strategy": options.mask_strategy}
    return [parse_prompt(line, scores=scores, **given) for line in lines]


def _preset(options: argparse.Namespace) -> Preset:
    try:
        height, width = image_size(options.resolution, options.ratio)
        frames = frame_count(options.frames)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    if options.fps < 1:
        raise ConfigError([f"--fps {options.fps}; expected at least 1"])
    if options.loops < 1:
        raise ConfigError([f"--loops {options.loops}; expected at least 1"])
    if options.loops > 1 and (frames % MICRO_FRAMES or frames == MICRO_FRAMES):
        raise ConfigError(
            [
                f"--loops {options.loops} of {frames} frames: a loop begins with the last "
                f"{MICRO_FRAMES} frames of the one before it; give `--frames` a multiple of "
                f"{MICRO_FRAMES}, and at least {2 * MICRO_FRAMES}"
            ]
        )
    return Preset(frames, height, width, options.fps, options.loops)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer.sample", description=__doc__)
    parser.add_argument("checkpoint", help="a checkpoint folder, a run, or latest")
    parser.add_argument(
        "--prompt", action="append", default=[], help="may be given again; {{ is a brace"
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line, UTF-8")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a picture or video that --mask-strategy takes frames from; may be given again",
    )
    parser.add_argument(
        "--mask-strategy",
        default="",
        metavar="GROUPS",
        help="loop,reference,reference start,target start,length,edit; groups joined by ';'; "
        "frames are latent ones (5 for 17), edit is 0 (keep) to 1 (make anew)",
    )
    parser.add_argument("--loops", type=int, default=1, help="parts that continue one another")
    parser.add_argument("--aesthetic-score", type=float, help="for the prompt's end; 6.5")
    parser.add_argument("--motion-score", type=float, help="likewise")
    parser.add_argument("--camera-motion", help="likewise; 'pan left'")
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
