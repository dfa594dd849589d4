"""The real networks on GPUs: a launched run, and steps of every bucket beside the plain arithmetic.

    python benchmarks/gpu.py [--only run|steps] [--toy] [--folder DIR]

`run` is stage 1 on all GPUs with STDiT3-XL/2, random weights and random cached features: launch,
two checkpoints, resume, `gpus`, `kill`. `steps` are timed on 1, 2, 4, ... GPUs: bf16, ZeRO-2,
captions of random length; model FLOPs are three forward passes by `trainer.model.flops`, without
what is recomputed, against 989 TFLOP/s of an H100 or H200. "Plain" is the reference's arithmetic in
the same blocks: both modulations of every token, fp32 scores of the temporal attention in memory,
averages and norms tensor by tensor. Sampling is timed by `sampling.py`. Without GPUs, or with
`--toy`, toy networks do the same, to see that it runs.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
from torch.distributed.run import main as torchrun

from benchmarks.on_gpus.launched_run import Launched
from benchmarks.on_gpus.shapes import REAL, TOY
from benchmarks.on_gpus.timed_steps import Steps
from trainer.config import load_stage
from trainer.distributed.parallel import process_group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("run", "steps"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toy", action="store_true", default=not torch.cuda.is_available())
    parser.add_argument("--folder", type=Path, help="on the disk to measure; else temporary")
    parser.add_argument("--all-shapes", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no launched run stays behind
    size = TOY if arguments.toy else REAL
    if "RANK" in os.environ:
        with process_group(load_stage(size.stage).config.trainer) as ranks:
            Steps(size, ranks, arguments.rounds).run(arguments.all_shapes)
        return
    gpus = torch.cuda.device_count()
    print(f"{gpus} GPUs, {os.cpu_count()} cores, torch {torch.__version__}", flush=True)
    parts = {arguments.only} if arguments.only else {"run", "steps"}
    with tempfile.TemporaryDirectory(prefix="soractl-gpu-", dir=arguments.folder) as folder:
        if "run" in parts:
            Launched(size, Path(folder), gpus or 2).run()
    if "steps" in parts:
        time_steps(arguments, gpus or 2)


def time_steps(arguments: argparse.Namespace, most: int) -> None:
    """All shapes on all GPUs, and one of them on fewer."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would say so too, at length
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as trainer/train.py
    words = ["--rounds", str(arguments.rounds), *(["--toy"] if arguments.toy else [])]
    for ranks in [2**power for power in range(most.bit_length())]:
        print(f"\n{ranks} rank{'s' if ranks > 1 else ''}", flush=True)
        more = ["--all-shapes"] if 2 * ranks > most else []
        torchrun(["--standalone", f"--nproc-per-node={ranks}", __file__, *words, *more])


if __name__ == "__main__":
    main()
