"""`python -m trainer.step_replay`: a recorded micro step, asked line by line: bits and seconds.

The record is a seed: weights and inputs are drawn on the host, so every rank has the same ones.
Each line of stdin is an object: arch, device, times; an empty one asks for the number of GPUs. Each
answer is an object: the device's name, a digest of loss and gradients, seconds of the fastest step,
or an error. Kernels that add up in any order have others in their place: equal GPUs would differ.
"""

import hashlib
import os
import platform
import time
from pathlib import Path
from typing import Any

from trainer import packages
from trainer.questions import answer_lines

with packages.needed():
    import torch

    from trainer.model.stdit3 import SIZES, STDiT3, STDiT3Config

SHAPE = {"cuda": (1, 4, 15, 45, 80), "cpu": (1, 4, 3, 8, 8)}  # latents of a clip; 360p
TOKENS = 32


def replay(question: dict[str, Any]) -> dict[str, Any]:
    """Digest and seconds; every repetition must have the same bits."""
    device = torch.device(question["device"])
    torch.manual_seed(0)
    config = STDiT3Config(**SIZES[question["arch"]])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = STDiT3(config).to(device, dtype)
    given = {name: tensor.to(device) for name, tensor in _inputs(config, device.type).items()}
    given["x"], given["y"] = given["x"].to(dtype), given["y"].to(dtype)
    runs = [_step(model, given) for _ in range(int(question["times"]))]
    digests = sorted({digest for digest, _ in runs})
    return {
        "device": _name(device),
        "digest": " ".join(digests),  # several: the rank does not even agree with itself
        "seconds": min(seconds for _, seconds in runs),
    }


def _step(model: STDiT3, given: dict[str, torch.Tensor]) -> tuple[str, float]:
    model.zero_grad(set_to_none=True)
    _wait(given["x"].device)
    began = time.perf_counter()
    loss = model(**given).float().square().mean()
    loss.backward()
    _wait(given["x"].device)
    seconds = time.perf_counter() - began
    found = hashlib.sha256(loss.detach().cpu().numpy().tobytes())
    for parameter in model.parameters():
        if parameter.grad is not None:
            found.update(parameter.grad.flatten().view(torch.uint8).cpu().numpy().tobytes())
    return found.hexdigest()[:16], seconds


def _inputs(config: STDiT3Config, kind: str) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(1)
    shape = SHAPE[kind]
    return {
        "x": torch.randn(shape, generator=draws),
        "timestep": torch.tensor([500.0]),
        "y": torch.randn(1, 1, TOKENS, config.caption_channels, generator=draws),
        "mask": torch.ones(1, TOKENS, dtype=torch.long),
        "fps": torch.tensor([24.0]),
        "height": torch.tensor([8.0 * shape[3]]),
        "width": torch.tensor([8.0 * shape[4]]),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    return replay(question) if question else {"devices": torch.cuda.device_count()}


def main() -> None:
    """Answers until stdin ends."""
    torch.set_num_threads(1)  # bits must not hang on the number of cores
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as the next line asks for
    torch.use_deterministic_algorithms(True, warn_only=True)
    answer_lines(_answer)


if __name__ == "__main__":
    main()
