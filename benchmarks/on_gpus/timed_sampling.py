"""Seconds of videos by a process that samples, as `eval` keeps one."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save

from benchmarks.on_gpus.shapes import TOY, Size
from benchmarks.on_gpus.timed_encoders import T5
from soractl.evaluation.samplers import Sampler
from tests.making import make_manifest, publish_files
from tests.rehearsal import published
from trainer.atomic_files import write_json
from trainer.checkpoint_dir import Checkpoint
from trainer.checkpoints.checkpoint import INDEX, lay_out
from trainer.config import TrainConfig, load_stage
from trainer.model import build as networks
from trainer.run_dir import RunDir, create_run
from trainer.settings import dump

PROMPT = "a cat runs over wet grass in the evening sun, filmed from the side"
RATIO = "9:16"
SHORT = ("--steps=2",)


class Sampling:
    """Times videos of a run with two checkpoints of random weights."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        weights = []
        if size.stage != TOY.stage:
            write_t5(folder / "t5")
            weights = ["vae.weights=none", f"text_encoder.weights={folder / 't5'}"]
        self.config = load_stage(size.stage, weights).config
        run = create_run(folder / "runs", size.stage)
        write_json(run.config_json, dump(self.config))
        self.checkpoints = [publish(run, self.config, step) for step in (1, 2)]

    def run(self) -> None:
        """Lines of films: a short one, for which kernels are built, then one of the other weights.

        The first of all waits for all networks.
        """
        columns = ("WEIGHTS S", "VIDEO S", "PEAK GB")
        print(f"\n{'':24}" + "".join(f"{name:>12}" for name in columns), flush=True)
        with Sampler.on(None) as sampler:
            for film in self.size.films:
                for checkpoint, more in zip(self.checkpoints, (SHORT, ()), strict=True):
                    cells = self.video(sampler, checkpoint, film, *more)
                    name = " ".join((*film, *more))
                    print(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells), flush=True)

    def video(
        self, sampler: Sampler, checkpoint: Checkpoint, film: tuple[str, str], *more: str
    ) -> list[str]:
        """Seconds until its weights are there, seconds of the video, memory in use."""
        peak = Peak()
        task = self.task(sampler, checkpoint, film, *more)
        made = sampler.ask({"perform": [task]}, peak.look)
        return [f"{made['loading_s']:.2f}", f"{made['seconds'][0]:.2f}", f"{peak.bytes / 1e9:.1f}"]

    def task(
        self, sampler: Sampler, checkpoint: Checkpoint, film: tuple[str, str], *more: str
    ) -> Mapping[str, Any]:
        """One video's."""
        frames, resolution = film
        options = [f"--frames={frames}", f"--resolution={resolution}", f"--ratio={RATIO}", *more]
        out = self.folder / "-".join((*film, checkpoint.name, *more))
        words = [str(checkpoint.path), f"--prompt={PROMPT}", f"--out={out}", *options]
        [task] = sampler.ask({"plan": words})["tasks"]
        return dict(task)


class Peak:
    """Most memory in use, of the first GPU or of the sampling processes, by looks at each step."""

    def __init__(self) -> None:
        self.bytes = 0

    def look(self, *_: int) -> None:
        """Look once."""
        if not torch.cuda.is_available():
            used = sum(one.memory_info().rss for one in psutil.Process().children(recursive=True))
            self.bytes = max(self.bytes, used)
            return
        import pynvml

        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByPciBusId(_bus_id())
        self.bytes = max(self.bytes, int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used))


def _bus_id() -> str:
    found = torch.cuda.get_device_properties(0)
    return f"{found.pci_domain_id:08x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"


def write_t5(folder: Path) -> None:
    """T5 v1.1 XXL with random weights and a small vocabulary."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        published.write_t5(folder, [PROMPT], sizes=T5)
    torch.set_default_dtype(torch.float32)


def publish(run: RunDir, config: TrainConfig, step: int) -> Checkpoint:
    """A checkpoint of random averages, in fp32 and in files of at most 1 GiB as training does."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = networks.build_model(config)
    tensors = {name: tensor.float().cpu() for name, tensor in model.state_dict().items()}
    layout = lay_out({name: (one.shape, one.nbytes) for name, one in tensors.items()}, 1)

    def files() -> Iterator[tuple[str, bytes]]:
        yield f"ema/{INDEX}", json.dumps(layout.index).encode()
        for file, names in layout.files.items():
            yield f"ema/{file}", save({name: tensors[name] for name in names})

    return publish_files(run, make_manifest(step), files())
