"""Seconds and memory of sampled videos, and a sampling step beside the plain arithmetic.

    python benchmarks/sampling.py [--film LENGTH,RESOLUTION ...] [--rounds 2] [--toy] [--folder DIR]

On one GPU: STDiT3-XL/2, the VAE and T5 v1.1 XXL, all with random weights, by the process that
`eval` keeps: 4 s at 360p and at 720p, unless films are given. Without a GPU, or with `--toy`, toy
networks do the same on the CPU. Nothing is downloaded. Printed are the time until other weights
are ready, of a video, and the memory in use; then a step with guidance, in turns: both halves
together (as `sample` does), one after the other, and by the plain arithmetic of `gpu.py`.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.on_gpus.sampling_steps import Steps
from benchmarks.on_gpus.shapes import REAL, TOY
from benchmarks.on_gpus.timed_sampling import Sampling


def film(text: str) -> tuple[str, str]:
    """Length and resolution of `4s,360p`."""
    length, _, resolution = text.partition(",")
    return length, resolution


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--film", action="append", type=film, metavar="LENGTH,RESOLUTION")
    parser.add_argument("--rounds", type=int, default=2, help="of the steps that are compared")
    parser.add_argument("--toy", action="store_true", default=not torch.cuda.is_available())
    parser.add_argument("--folder", type=Path, help="on the disk to measure; else temporary")
    arguments = parser.parse_args()
    size = TOY if arguments.toy else REAL
    size = replace(size, films=tuple(arguments.film or size.films))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{gpu}, {os.cpu_count()} cores, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soractl-gpu-", dir=arguments.folder) as folder:
        sampling = Sampling(size, Path(folder) / "sampled")
        sampling.run()
    Steps(sampling.config, arguments.rounds).run(size.films)


if __name__ == "__main__":
    main()
