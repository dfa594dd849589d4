"""Evaluated checkpoints, as `soractl eval` leaves them."""

import torch

from soractl.evaluation.alarms import find_alarms
from trainer.atomic_files import write_json

PROMPTS = ("a cat", "a <b>dog</b> & a hen", "waves")
SCORES = {"motion": 3.0, "flicker": 1.0, "sharpness": 9.0, "saturation": 0.2, "contrast": 40.0}


def moving(level, frames=72, height=72, width=128):
    """uint8 [T, H, W, 3]: a bright bar that crosses a grey field."""
    video = torch.full((frames, height, width, 3), level, dtype=torch.uint8)
    for number in range(frames):
        video[number, :, number : number + 12] = 250
    return video


def publish(run, step, videos, *, preset="low4s", weights="ema"):
    """The result of a checkpoint; `videos` as `result.json` has them."""
    result = {
        "run": run.name,
        "preset": preset,
        "global_step": step,
        "epoch": 0,
        "checkpoint": f"epoch0-global_step{step}",
        "digest": "0",
        "weights": weights,
        "videos": videos,
        "alarms": [alarm.as_json() for alarm in find_alarms(videos)],
    }
    run.evaluation(preset, step).mkdir(parents=True, exist_ok=True)
    write_json(run.evaluation_result(preset, step), result)


def video(number, *, measures=None, prompt=None):
    """A video of a result, with colours of its own."""
    return {
        "name": f"sample_{number:04d}.mp4",
        "prompt": prompt or PROMPTS[number % len(PROMPTS)],
        "seed": 42,
        "height": 72,
        "width": 128,
        "poster": f"sample_{number:04d}.poster.png",
        "measures": {**SCORES, "colours": [20.0 * number] * 48, **(measures or {})},
    }
