"""Stage 1 launched, saved, resumed, looked at and killed, by the commands that people type."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.on_gpus.shapes import Size
from trainer.config import load_stage
from trainer.data.buckets import assign_epoch
from trainer.data.dataset import load_clips
from trainer.data.feature_identity import made_with
from trainer.data.features import (
    FeatureSet,
    caption_as_tensors,
    cut_into_shards,
    latents_as_tensors,
)
from trainer.model.latent_size import latent_size
from trainer.model.stdit3 import SIZES, STDiT3Config
from trainer.run_dir import RunDir, runs

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SAVE_EVERY, FIRST_STEPS = 5, 10


class Launched:
    """Stage 1 with random weights and features, through the commands that people type."""

    def __init__(self, size: Size, folder: Path, ranks: int) -> None:
        self.size, self.folder = size, folder
        self.sets = [
            "init_from=",
            f"data.path={folder / 'clips.csv'}",
            f"data.features={folder / 'features'}",
            f"vae.weights={folder / 'nothing'}",
            f"text_encoder.weights={folder / 'nothing'}",
            "log.wandb=false",
            *size.sets,
            "log.every_steps=1",
            f"checkpoint.every_steps={SAVE_EVERY}",
            "checkpoint.keep_last=1",
            "checkpoint.keep_every_steps=0",
        ]
        (folder / "nothing").mkdir()
        self.config = load_stage(size.stage, self.sets).config
        self.write_data(size.clips * ranks)

    def run(self) -> None:
        """Launch, save, resume, look, kill, look again."""
        sets = [word for text in self.sets for word in ("--set", text)]
        until = ("--set", f"trainer.max_steps={FIRST_STEPS}")
        try:
            self.soractl("launch", self.size.stage, *sets, *until)
            self.show_metrics(1, FIRST_STEPS)
            self.soractl("resume", "latest", "--set", "trainer.max_steps=100000", "--detach")
            last = FIRST_STEPS + SAVE_EVERY + 1  # a save of the resumed run, and a step after it
            self.wait_for_step(last)
            self.show_metrics(FIRST_STEPS + 1, last)
            for words in (["gpus"], ["gpus", "--procs"], ["gpus", "--json"], ["status", "latest"]):
                self.soractl(*words)
        finally:
            # a save may be under way, and the one at TERM begins after it
            self.soractl("kill", "latest", "--grace", "120")
        self.soractl("gpus")
        self.soractl("status", "latest")
        for attempt in self.run_dir.attempts():
            logs = "".join(log.read_text() for log in attempt.path.glob("*.log"))
            measured = [line for line in logs.splitlines() if "stood still" in line]
            measured += [
                f"rank {one['rank']} failed: {one['error']}" for one in attempt.rank_failures()
            ]
            print(f"attempt {attempt.path.name}", *measured, sep="\n  ", flush=True)

    def soractl(self, *words: str) -> None:
        """Run a command as people do, its output here."""
        print(f"\n$ soractl {' '.join(words[:2])}", flush=True)
        where = ["--runs", str(self.folder / "runs")] if words[0] != "gpus" else []
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "soractl.cli", *words, *where], cwd=REPOSITORY, check=False
        )
        print(f"exit code {done.returncode} after {time.monotonic() - began:.1f} s", flush=True)

    def write_data(self, count: int) -> None:
        """A table of 51 to 100 frames a clip, with random features in its cache."""
        draws = torch.Generator().manual_seed(0)
        longest = max(self.config.buckets.frames[:3])
        lines = [
            f"{number}.mp4,caption {number},{longest + 1 + number % 49},720,1280"
            for number in range(count)
        ]
        table = self.folder / "clips.csv"
        table.write_text("\n".join(["path,text,num_frames,height,width", *lines]) + "\n")
        clips, config = load_clips(table), self.config
        assignment = assign_epoch(clips, config, 0)
        rows = [row for row in range(count) if assignment.index[row] >= 0]
        width = STDiT3Config(**SIZES[config.model.arch]).caption_channels
        dtype = torch.bfloat16

        def latents(row: int) -> dict[str, Tensor]:
            bucket = assignment.buckets[int(assignment.index[row])]
            frames, *sides = latent_size((bucket.frames, bucket.height, bucket.width))
            shape = (4, *(side or 0 for side in (frames, *sides)))
            return latents_as_tensors(row, torch.randn(shape, generator=draws).to(dtype), 24.0)

        def caption(row: int) -> dict[str, Tensor]:
            tokens = config.text_encoder.max_length // 2
            return caption_as_tensors(row, torch.randn(tokens, width, generator=draws).to(dtype))

        for kind, make, of_rows in (("video", latents, rows), ("text", caption, range(count))):
            identity = made_with(kind, config, clips)
            features = FeatureSet.of(self.folder / "features", kind, identity)
            features.begin(identity, 64)
            shards = list(cut_into_shards(0, list(of_rows), 64))
            for shard in shards:
                tensors: dict[str, Tensor] = {}
                for row in shard.rows:
                    tensors |= make(row)
                features.write(shard, tensors, {})
            features.finish(shards, variants=1)

    @property
    def run_dir(self) -> RunDir:
        return runs(self.folder / "runs")[-1]

    def metrics(self) -> list[dict[str, Any]]:
        path = self.run_dir.metrics
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_step(self, step: int) -> None:
        give_up = time.monotonic() + 240
        while not any(line["global_step"] >= step for line in self.metrics()):
            if time.monotonic() > give_up:
                raise TimeoutError(f"step {step} did not come")
            time.sleep(0.5)

    def show_metrics(self, first: int, last: int) -> None:
        """What the run says of these steps; each must be there once, with a finite loss."""
        lines = [line for line in self.metrics() if first <= line["global_step"] <= last]
        assert [line["global_step"] for line in lines] == list(range(first, last + 1)), lines
        assert all(math.isfinite(line["loss"]) for line in lines)
        phases = ("data", "encode", "forward", "backward", "reduce", "optimizer")
        print("STEP    LOSS  S/STEP     MFU  " + "  ".join(f"{name:>9}" for name in phases))
        for line in lines:
            seconds = "  ".join(f"{line[f'time/{name}_s']:9.3f}" for name in phases)
            mfu = line.get("speed/mfu", 0.0)
            head = f"{line['global_step']:4}  {line['loss']:6.3f}  {line['s_per_step']:6.2f}"
            print(f"{head}  {mfu:6.1%}  {seconds}", flush=True)
