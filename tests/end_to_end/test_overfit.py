import json
import subprocess
import sys

import pandas as pd
import pytest
import torch

from trainer.config import load_stage
from trainer.data.decode import read_frames
from trainer.model import build as networks

FRAMES, HEIGHT, WIDTH = 17, 144, 256


def psnr(video, other):
    """Of videos with values in [-1, 1], in dB."""
    return (10 * torch.log10(4 / (video - other).square().mean())).item()


@pytest.mark.slow  # 300 steps of two ranks
def test_one_clip_is_learnt_so_well_that_it_can_be_sampled(soractl, tmp_path, clips_csv):
    one_clip = clips_csv.parent / "one-clip.csv"
    wanted = [f"data.path={one_clip}", "log.wandb=false", "log.tensorboard=false"]
    soractl("launch", "smoke-overfit", *(part for text in wanted for part in ("--set", text)))
    run = tmp_path / "runs/001-smoke-overfit"
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 300
    begin, end = sum(losses[:5]) / 5, sum(losses[-50:]) / 50
    assert end < begin / 10

    clip = pd.read_csv(one_clip).iloc[0]
    options = ["--frames", str(FRAMES), "--resolution", "144p", "--fps", str(round(clip.fps))]
    command = [sys.executable, "-m", "trainer.sample", run, "--prompt", clip.text, *options]
    subprocess.run([*command, "--out", tmp_path], check=True, capture_output=True)
    sampled, _ = read_frames(str(tmp_path / "sample_0000.mp4"), 0, FRAMES, HEIGHT, WIDTH)
    shown, _ = read_frames(clip.path, 0, FRAMES, HEIGHT, WIDTH)
    settings = load_stage("smoke-overfit").config
    vae = networks.build_vae(settings.vae, 0, device=torch.device("cpu"), dtype=torch.float32)
    possible = vae.decode(vae.encode(shown[None]), FRAMES)[0]
    table = pd.read_csv(clips_csv)
    other = table[(table.num_frames > FRAMES) & ~table.path.str.contains("bigbuckbunny")]
    others = [read_frames(path, 0, FRAMES, HEIGHT, WIDTH)[0] for path in other.path[::4]]
    nearest = max(psnr(sampled, video) for video in others)
    figures = {
        "loss at the start": begin,
        "loss at the end": end,
        "PSNR of the sample to the clip, dB": psnr(sampled, shown),
        "to the clip as the VAE shows it": psnr(sampled, possible),
        "of the VAE to the clip": psnr(possible, shown),
        "of the sample to the nearest clip of another scene": nearest,
    }
    sys.stdout.writelines(f"{name}: {value:.2f}\n" for name, value in figures.items())
    assert psnr(sampled, shown) > 17
    assert psnr(sampled, possible) > 18
    assert psnr(sampled, shown) > nearest + 5
