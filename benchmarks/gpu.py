"""The real networks on GPUs: a launched run, and steps of every bucket beside the plain arithmetic.

    python benchmarks/gpu.py [--only run|steps] [--toy] [--folder DIR]

`run` is stage 1 on all GPUs with STDiT3-XL/2, random weights and random cached features: launch,
two checkpoints, resume, `gpus`, `kill`. `steps` are timed on 1, 2, 4, ... GPUs: bf16, ZeRO-2,
captions of random length; model FLOPs are three forward passes by `trainer.model.flops`, without
what is recomputed, against 989 TFLOP/s of an H100 or H200. "Plain" is the reference's arithmetic in
the same blocks: both modulations of every token, fp32 scores of the temporal attention in memory,
averages and norms tensor by tensor. Without GPUs, or with `--toy`, toy networks do the same, to see
that it runs.
"""

import argparse
import gc
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.distributed.run import main as torchrun  # noqa: E402

from benchmarks.data import like_openvid  # noqa: E402
from trainer import networks  # noqa: E402
from trainer.config import TrainConfig, load_stage  # noqa: E402
from trainer.data.batch_sampler import plan_epoch  # noqa: E402
from trainer.data.buckets import assign, bucket_rules  # noqa: E402
from trainer.data.dataset import load_clips  # noqa: E402
from trainer.data.feature_identity import made_with  # noqa: E402
from trainer.data.features import (  # noqa: E402
    FeatureSet,
    caption_as_tensors,
    cut_into_shards,
    latents_as_tensors,
)
from trainer.data.resolutions import RESOLUTIONS  # noqa: E402
from trainer.ema import Ema  # noqa: E402
from trainer.model.flops import forward_flops  # noqa: E402
from trainer.model.latent_size import latent_size  # noqa: E402
from trainer.model.stdit3 import SIZES, Block, STDiT3Config, TemporalBlock  # noqa: E402
from trainer.model.text_encoder import CaptionEncoder, tiny_t5  # noqa: E402
from trainer.parallel import Ranks, boost, process_group  # noqa: E402
from trainer.rectified_flow import RectifiedFlow  # noqa: E402
from trainer.run_dir import RunDir, runs  # noqa: E402

PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200
CAPTION_TOKENS = 300
WARM_UP = 2
SAVE_EVERY, FIRST_STEPS = 5, 10


@dataclass(frozen=True)
class Shape:
    """A micro batch of one bucket."""

    resolution: str
    frames: int
    clips: int

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip."""
        return self.frames, *RESOLUTIONS[self.resolution].sizes["0.56"]

    @property
    def latents(self) -> tuple[int, ...]:
        """[B, 4, T, H, W]."""
        return self.clips, 4, *(size or 0 for size in latent_size(self.pixels))

    @property
    def tokens(self) -> int:
        """Of latents, in patches of 1 x 2 x 2."""
        clips, _, frames, height, width = self.latents
        return clips * frames * math.ceil(height / 2) * math.ceil(width / 2)

    def __str__(self) -> str:
        return f"{self.resolution} x {self.frames}, {self.clips} clips"


@dataclass(frozen=True)
class Size:
    """What is trained on what."""

    stage: str
    shapes: tuple[Shape, ...]
    middle: Shape  # what ways and numbers of GPUs are compared on
    small: tuple[Shape, ...]  # of which every activation can be kept
    sets: tuple[str, ...]  # of the launched run
    clips: int  # of the launched run, for each GPU
    orders: int  # steps in which the orders of an epoch are compared


REAL = Size(
    stage="stage1",
    shapes=(
        Shape("144p", 51, 51),
        Shape("240p", 51, 20),
        Shape("360p", 51, 8),
        Shape("720p", 51, 2),
        Shape("480p", 1, 89),
    ),
    middle=Shape("360p", 51, 8),
    small=(Shape("360p", 51, 2), Shape("360p", 51, 1)),
    sets=(  # a quarter of each batch, so that a few minutes see many steps
        "buckets.batch_size.144p=[118, 12, 6, 3, 1]",
        "buckets.batch_size.240p=[74, 5, 2, 1, 1]",
        "buckets.batch_size.360p=[35, 2, 1, 1, 1]",
    ),
    clips=300,
    orders=32,
)
TOY = Size(
    stage="smoke",
    shapes=(Shape("144p", 17, 2), Shape("144p", 34, 1)),
    middle=Shape("144p", 17, 2),
    small=(Shape("144p", 17, 1),),
    sets=(),
    clips=80,
    orders=8,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("run", "steps"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--toy", action="store_true", default=not torch.cuda.is_available())
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; else temporary")
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
    if arguments.only != "steps":
        with tempfile.TemporaryDirectory(prefix="soractl-gpu-", dir=arguments.folder) as folder:
            Launched(size, Path(folder), gpus or 2).run()
    if arguments.only != "run":
        time_steps(arguments, gpus or 2)


def time_steps(arguments: argparse.Namespace, most: int) -> None:
    """All shapes on all GPUs, and one of them on fewer."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would say so too, at length
    words = ["--rounds", str(arguments.rounds), *(["--toy"] if arguments.toy else [])]
    for ranks in [2**power for power in range(most.bit_length())]:
        print(f"\n{ranks} rank{'s' if ranks > 1 else ''}", flush=True)
        more = ["--all-shapes"] if 2 * ranks > most else []
        torchrun(["--standalone", f"--nproc-per-node={ranks}", __file__, *words, *more])


# --- a launched run


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
        self.soractl("launch", self.size.stage, *sets, "--set", f"trainer.max_steps={FIRST_STEPS}")
        self.show_metrics(1, FIRST_STEPS)
        self.soractl("resume", "latest", "--set", "trainer.max_steps=100000", "--detach")
        try:
            self.wait_for_step(FIRST_STEPS + 4)
            self.show_metrics(FIRST_STEPS + 1, FIRST_STEPS + 4)
            for words in (["gpus"], ["gpus", "--procs"], ["gpus", "--json"]):
                self.soractl(*words)
        finally:
            self.soractl("kill", "latest")
        self.soractl("gpus")
        for log in sorted(self.run_dir.path.glob("attempts/*/*.log")):
            told = [line for line in log.read_text().splitlines() if "stood still" in line]
            print(f"attempt {log.parent.name}", *told, sep="\n  ", flush=True)

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
        rules = bucket_rules(config.buckets.frames, config.buckets.batch_size, config.buckets.keep)
        assignment = assign(clips, rules, config.seed, 0)
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
            identity = made_with(kind, config, clips)  # type: ignore[arg-type]
            features = FeatureSet.of(self.folder / "features", kind, identity)  # type: ignore[arg-type]
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


# --- single steps


class Steps:
    """Times steps on this rank and all others; the first one prints."""

    def __init__(self, size: Size, ranks: Ranks, rounds: int) -> None:
        self.size, self.ranks, self.rounds = size, ranks, rounds
        self.config = load_stage(size.stage).config

    def run(self, all_shapes: bool) -> None:
        """Every way on the shapes that show what it is for."""
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, toy networks"
        self.say(f"{name}; a matrix product reaches {self.matrix_rate() / 1e12:.0f} TFLOP/s")
        columns = ("S/STEP", "TOKENS/S", "TFLOP/S", "MFU", "UPDATE", "PEAK GB")
        self.say(f"{'':34}{'':28}" + "".join(f"{name:>10}" for name in columns))
        if not all_shapes:
            self.way("ours", [self.size.middle])
            return
        model_s = self.way("ours", self.size.shapes)
        self.way("ours, nothing recomputed", self.size.small, grad_checkpoint="none")
        self.way("ours, not compiled", [self.size.middle], compiled=False)
        self.way("plain arithmetic", [self.size.middle], plain=True)
        self.encoders(model_s)
        if self.ranks.world_size > 1:
            self.orders()

    def way(
        self,
        name: str,
        shapes: Sequence[Shape],
        *,
        plain: bool = False,
        compiled: bool = True,
        grad_checkpoint: str | None = None,
    ) -> dict[Shape, float]:
        """Seconds of a step by shape, of those that fit into memory."""
        found = {}
        with self.trained(plain, compiled, grad_checkpoint) as trained:
            for shape in shapes:
                with self.unless_memory_is_short(f"{name:34}{shape!s:28}"):
                    found[shape] = self.measure(name, trained, shape)
        return found

    def measure(self, name: str, trained: "Trained", shape: Shape) -> float:
        latents, noise, conditions = trained.batch(shape)
        self.reset_peak()
        both, updates = [], []
        for _ in range(WARM_UP + self.rounds):
            backward = self.clocked(lambda: trained.backward(latents, noise, conditions))
            updates.append(self.clocked(trained.update))
            both.append(backward + updates[-1])
        seconds = statistics.median(both[WARM_UP:])
        rate = trained.flops(shape, conditions) / seconds
        cells = (
            f"{seconds:.3f}",
            f"{self.ranks.world_size * shape.tokens / seconds:.0f}",
            f"{rate / 1e12:.1f}",
            f"{rate / PEAK_FLOPS:.1%}",
            f"{statistics.median(updates[WARM_UP:]):.3f}",
            f"{self.peak_gb():.1f}",
        )
        self.say(f"{name:34}{shape!s:28}" + "".join(f"{cell:>10}" for cell in cells))
        return seconds

    def encoders(self, model_s: dict[Shape, float]) -> None:
        """What a step takes besides when features are not cached."""
        device = self.ranks.device
        dtype = torch.bfloat16
        vae = networks.build_vae(
            replace(self.config.vae, weights=None), 0, device=device, dtype=dtype
        )
        captions = self.caption_encoder(dtype)
        self.say(f"\n{'':30}" + "".join(f"{name:>12}" for name in ("VAE S", "T5 S", "SHARE")))
        for shape in self.size.shapes:
            with self.unless_memory_is_short(f"{shape!s:30}"):
                video = (
                    torch.rand(shape.clips, 3, *shape.pixels, device=device, dtype=dtype) * 2 - 1
                )
                seeds = list(range(shape.clips))
                with torch.no_grad():
                    encode: list[Callable[[], Any]] = [
                        lambda: vae.encode_each(video, seeds),  # noqa: B023 - called in this turn
                        lambda: captions.encode(["a"] * shape.clips),  # noqa: B023
                    ]
                    seconds = [min(self.clocked(each) for _ in range(2)) for each in encode]
                cells = [f"{each:.3f}" for each in seconds]
                if shape in model_s:
                    cells.append(f"{sum(seconds) / (sum(seconds) + model_s[shape]):.1%}")
                self.say(f"{shape!s:30}" + "".join(f"{cell:>12}" for cell in cells))

    def caption_encoder(self, dtype: torch.dtype) -> CaptionEncoder:
        """T5 v1.1 XXL with random weights, that reads 300 random tokens."""
        if self.size is TOY:
            return tiny_t5(0, dtype=dtype, device=self.ranks.device)
        from transformers import T5Config, T5EncoderModel

        sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
        config = T5Config(vocab_size=32128, feed_forward_proj="gated-gelu", **sizes)
        torch.set_default_dtype(dtype)
        with torch.device(self.ranks.device):
            encoder = T5EncoderModel(config)
        torch.set_default_dtype(torch.float32)
        ids = torch.randint(32128, (1, CAPTION_TOKENS))

        def tokeniser(*_: Any, **__: Any) -> SimpleNamespace:
            return SimpleNamespace(input_ids=ids)

        return CaptionEncoder(encoder, tokeniser, max_length=CAPTION_TOKENS)

    def orders(self) -> None:
        """The same epoch of clips like OpenVid's, in the reference's order and in the balanced."""
        clips, config = like_openvid(200_000), self.config
        rules = bucket_rules(config.buckets.frames, config.buckets.batch_size, config.buckets.keep)
        assignment = assign(clips, rules, config.seed, 0)
        with self.trained() as trained:
            for window in (0, config.balance.window):
                plan = plan_epoch(assignment, world_size=self.ranks.world_size, window=window)
                mine = [one.bucket for one in plan.for_rank(self.ranks.rank)[: self.size.orders]]
                shapes = [
                    Shape(bucket.resolution, bucket.frames, bucket.batch_size) for bucket in mine
                ]
                for shape in dict.fromkeys(shapes):
                    self.one_step(trained, shape)
                seconds = self.clocked(lambda: [self.one_step(trained, one) for one in shapes])  # noqa: B023
                told = (
                    f"{seconds / len(shapes):.3f} s/step, {len(shapes)} steps of {self.size.stage}"
                )
                self.say(f"{f'window {window}':34}{told}")

    def one_step(self, trained: "Trained", shape: Shape) -> None:
        trained.backward(*trained.batch(shape))
        trained.update()

    @contextmanager
    def trained(
        self, plain: bool = False, compiled: bool = True, grad_checkpoint: str | None = None
    ) -> Iterator["Trained"]:
        """A network that is gone from memory afterwards."""
        config = self.config
        if grad_checkpoint is not None:
            config = replace(config, model=replace(config.model, grad_checkpoint=grad_checkpoint))
        config = replace(config, trainer=replace(config.trainer, compile=compiled))
        trained = Trained(config, self.ranks, plain=plain)
        yield trained
        trained.__dict__.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def unless_memory_is_short(self, what: str) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            self.say(f"{what}out of memory")
            gc.collect()
            torch.cuda.empty_cache()

    def matrix_rate(self) -> float:
        """FLOP/s of a large product of matrices in bf16."""
        side = 8192 if torch.cuda.is_available() else 512
        a, b = (torch.randn(side, side, device=self.ranks.device).bfloat16() for _ in range(2))
        return 2 * side**3 / min(self.clocked(lambda: a @ b) for _ in range(10))

    def clocked(self, action: Callable[[], Any]) -> float:
        """Seconds until the device has done it."""
        self.finish()
        began = time.perf_counter()
        action()
        self.finish()
        return time.perf_counter() - began

    def finish(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def reset_peak(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0

    def say(self, line: str) -> None:
        if self.ranks.is_first:
            print(line, flush=True)


class Trained:
    """The network with its optimizer, and one way to step it."""

    def __init__(self, config: TrainConfig, ranks: Ranks, *, plain: bool) -> None:
        self.ranks, self.flow, self.plain = ranks, RectifiedFlow(config.flow), plain
        with torch.device(ranks.device):
            self.model = networks.build_model(config)
        if plain:
            for block in self.model.blocks:
                block.forward = PlainBlock(block)  # type: ignore[method-assign]
        elif config.trainer.compile:
            self.model.compile_blocks()
        self.booster, self.wrapped, self.optimizer = boost(self.model, config.optim, config.trainer)
        self.ema = Ema(self.optimizer.masters, config.optim.ema_decay)
        self.dtype = next(self.model.parameters()).dtype

    def batch(self, shape: Shape) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Latents, their noise, and conditions."""
        device, draws = self.ranks.device, torch.Generator().manual_seed(self.ranks.rank)
        latents = torch.randn(shape.latents, device=device, dtype=self.dtype)
        most = self.model.config.model_max_length
        lengths = torch.randint(most // 2, most + 1, (shape.clips, 1), generator=draws)
        channels = self.model.config.caption_channels
        size = torch.tensor(shape.pixels[1:], dtype=self.dtype)
        conditions = {
            "y": torch.randn(shape.clips, 1, most, channels, device=device, dtype=self.dtype),
            "mask": (torch.arange(most) < lengths).long(),
            "fps": torch.full((shape.clips,), 24.0, device=device, dtype=self.dtype),
            "height": size[:1],
            "width": size[1:],
        }
        return latents, torch.randn_like(latents), conditions

    def flops(self, shape: Shape, conditions: dict[str, Any]) -> float:
        """Of the model in one step."""
        clips, _, *size = shape.latents
        tokens = int(conditions["mask"].sum())
        return 3.0 * forward_flops(self.model.config, clips, *size, caption_tokens=tokens)

    def backward(self, latents: Tensor, noise: Tensor, conditions: dict[str, Any]) -> None:
        """Loss and gradients."""
        t = torch.rand(len(latents), device=latents.device) * 1000
        shape = len(latents), latents.shape[2]
        mask = torch.ones(shape, dtype=torch.bool, device=t.device) if self.plain else None
        losses = self.flow.training_loss(self.wrapped, latents, noise, t, conditions, mask)
        self.booster.backward(losses.mean(), self.optimizer)

    def update(self) -> None:
        """Optimizer and averages."""
        if self.plain:
            for parameter in self.model.parameters():
                parameter.norm().item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.plain:
            self.ema.update()
            return
        for average, master in zip(self.ema.shards, self.optimizer.masters, strict=True):
            average.mul_(0.9999).add_(master, alpha=1 - 0.9999)


class PlainBlock:
    """A block's equations as they stand."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __call__(
        self, x: Tensor, y: Tensor, captions: Any, modulation: Tensor, time: Any
    ) -> Tensor:
        block = self.block
        tables = [(block.scale_shift_table + m).unbind(2) for m in (modulation, modulation)]
        chosen = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)[:, :, None, None]

        def modulated(first: int) -> Tensor:
            made, given = (self._modulate(x, table[first], table[first + 1]) for table in tables)
            return torch.where(chosen, made, given)

        def gated(value: Tensor, at: int) -> Tensor:
            made, given = (table[at][:, :, None] * value for table in tables)
            return torch.where(chosen, made, given)

        if isinstance(block, TemporalBlock):
            tokens = modulated(0).transpose(1, 2)
            attended = self._attention(tokens, time).transpose(1, 2)
        else:
            attended = block.attn(modulated(0).flatten(0, 1)).view_as(x)
        x = x + gated(attended, 2)
        x = x + block.cross_attn(x.flatten(1, 2), y, captions).view_as(x)
        return x + gated(block.mlp(modulated(3)), 5)

    def _modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        normal = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return normal * (1 + scale[:, :, None]) + shift[:, :, None]

    def _attention(self, x: Tensor, time: Any) -> Tensor:
        layer = self.block.attn
        cos, sin = (angles[:, 0] for angles in (time.cos, time.sin))
        q, k, v = layer.qkv(x).unflatten(-1, (3, layer.heads, -1)).unbind(-3)
        q, k, v = (part.transpose(-3, -2) for part in (q, k, v))
        q, k = (self._norm(part, norm) for part, norm in ((q, layer.q_norm), (k, layer.k_norm)))
        q, k = (
            part * cos + part.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) * sin for part in (q, k)
        )
        scores = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).float()
        return layer.proj((scores.softmax(-1).to(v.dtype) @ v).transpose(-3, -2).flatten(-2))

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(
            x.dtype
        ) * norm.weight


if __name__ == "__main__":
    main()
