import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from trainer.config import DataConfig
from trainer.data.batch_sampler import MicroBatch
from trainer.data.buckets import Bucket
from trainer.data.dataset import load_clips
from trainer.data.decode import read_frames
from trainer.data.loader import ClipLoader, SkippedClip

BUCKET = Bucket("144p", frames=4, ratio="0.67", height=32, width=48, batch_size=4)
LENGTHS = (12, 4, 9, 20, 15, 8, 30, 12)


def settings(workers, *, prefetch=2, stuck_after_s=60.0):
    return DataConfig(path="", workers=workers, prefetch=prefetch, stuck_after_s=stuck_after_s)


def micro_batch(index, *rows):
    return MicroBatch(index, BUCKET, rows)


PLAN = [micro_batch(0, 3, 0, 5, 6), micro_batch(1, 1, 7, 4, 2)]


@pytest.fixture(scope="module")
def films(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp("films")
    return [
        write_video(folder / f"{row}.mp4", length, rate=10 + row, options={"g": "5"})
        for row, length in enumerate(LENGTHS)
    ]


@pytest.fixture
def table(films, tmp_path):
    """The clips, some of them with another path."""

    def make(**other):
        paths = [other.get(f"row_{row}", film) for row, film in enumerate(films)]
        texts = [f"film {row}" for row in range(len(films))]
        columns = {"path": paths, "text": texts, "num_frames": LENGTHS, "height": 48, "width": 64}
        pd.DataFrame(columns).to_csv(tmp_path / "clips.csv", index=False)
        return load_clips(tmp_path / "clips.csv")

    return make


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no film")
    return str(path)


@pytest.fixture
def stuck(tmp_path):
    """A path at which every reader waits for ever."""
    path = tmp_path / "stuck.mp4"
    os.mkfifo(path)
    return str(path)


def read(clips, workers, plan=PLAN, epoch=0, **more):
    with ClipLoader(clips, seed=7, settings=settings(workers, **more)) as loader:
        return list(loader.batches(epoch, plan))


def facts(batch):
    return batch.rows, batch.captions, batch.fps.tolist(), batch.skipped, batch.is_empty


def same(left, right):
    return [facts(batch) for batch in left] == [facts(batch) for batch in right] and all(
        torch.equal(one.video, other.video) for one, other in zip(left, right, strict=True)
    )


def children():
    """Process ids of the workers that this process has."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()) and b"spawn_main" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def test_a_batch_holds_what_its_micro_batch_asks_for(table):
    first, second = read(table(), 0)
    assert facts(first) == (
        (3, 0, 5, 6),
        ["film 3", "film 0", "film 5", "film 6"],
        [13.0, 10.0, 15.0, 16.0],
        (),
        False,
    )
    assert (first.video.shape, first.video.dtype) == ((4, 3, 4, 32, 48), torch.float32)
    assert (first.num_frames, first.height, first.width) == (4, 32, 48)
    assert [first.micro_batch, second.micro_batch] == PLAN


def test_each_clip_is_a_window_of_its_film(table, films):
    for batch in read(table(), 0):
        for row, clip in zip(batch.rows, batch.video, strict=True):
            whole, _ = read_frames(films[row], 0, LENGTHS[row], 32, 48)
            starts = range(LENGTHS[row] - 3)
            assert any(torch.equal(clip, whole[:, start : start + 4]) for start in starts), row


def test_windows_depend_on_epoch_and_row_and_not_on_the_batch(table):
    clips = table()
    alone = read(clips, 0, [micro_batch(5, 6)])[0].video[0]
    together = read(clips, 0)[0].video[3]
    later = [read(clips, 0, [micro_batch(0, 6)], epoch)[0].video[0] for epoch in range(1, 6)]
    assert torch.equal(alone, together)
    assert not all(torch.equal(alone, other) for other in later)


def test_windows_begin_everywhere_in_a_film(table, films):
    whole, _ = read_frames(films[2], 0, 9, 32, 48)
    clips, seen = table(), set()
    for epoch in range(60):
        clip = read(clips, 0, [micro_batch(0, 2)], epoch)[0].video[0]
        seen |= {start for start in range(6) if torch.equal(clip, whole[:, start : start + 4])}
    assert seen == {0, 1, 2, 3, 4, 5}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(table, broken, workers):
    clips = table(row_0=broken, row_7="missing.mp4")
    plan = [*PLAN, micro_batch(2, 0, 2), micro_batch(3, 7), micro_batch(4, 6, 4, 1)]
    assert same(read(clips, workers, plan), read(clips, 0, plan))


def test_the_next_good_clip_stands_in_for_one_that_cannot_be_read(table, broken):
    clips = table(row_0=broken, row_6="missing.mp4")
    whole = read(table(), 0)[0].video
    first, second = read(clips, 0)
    assert facts(first) == (
        (3, 5, 5, 3),
        ["film 3", "film 5", "film 5", "film 3"],
        [13.0, 15.0, 15.0, 13.0],
        (
            SkippedClip(0, broken, "Invalid data found when processing input"),
            SkippedClip(6, "missing.mp4", "No such file or directory"),
        ),
        False,
    )
    assert torch.equal(first.video, whole[[0, 2, 2, 0]])
    assert facts(second) == facts(read(table(), 0)[1])


def test_a_clip_that_cannot_be_read_is_named_once_and_not_tried_again(table, tmp_path, films):
    path = tmp_path / "late.mp4"
    clips = table(row_0=str(path))
    with ClipLoader(clips, seed=7, settings=settings(0)) as loader:
        (before,) = loader.batches(0, PLAN[:1])
        path.write_bytes(Path(films[0]).read_bytes())
        (after,) = loader.batches(1, PLAN[:1])
    assert [clip.row for clip in before.skipped] == [0]
    assert (after.skipped, after.rows) == ((), (3, 5, 5, 6))


def test_what_others_could_not_read_is_left_out_without_a_word(table, films):
    with ClipLoader(table(), seed=7, settings=settings(0)) as loader:
        loader.leave_out({films[0]: "no answer within 60 s"})
        (batch,) = loader.batches(0, PLAN[:1])
    assert (batch.skipped, batch.rows) == ((), (3, 5, 5, 6))


def test_a_batch_without_any_clip_is_empty_and_keeps_its_shape(table):
    clips = table(row_1="a.mp4", row_2="b.mp4")
    (batch,) = read(clips, 0, [micro_batch(0, 1, 2)])
    assert facts(batch)[:3] == ((1, 2), ["", ""], [0.0, 0.0])
    assert batch.is_empty
    assert [clip.path for clip in batch.skipped] == ["a.mp4", "b.mp4"]
    assert torch.equal(batch.video, torch.zeros(2, 3, 4, 32, 48))


def test_a_film_that_is_shorter_than_its_table_says_is_skipped(table, films):
    clips = table(row_0=films[1])
    reasons = set()
    for epoch in range(8):
        reasons |= {clip.reason for clip in read(clips, 0, PLAN[:1], epoch)[0].skipped}
    assert reasons
    assert all(reason.startswith("4 frames, where ") for reason in reasons)


@pytest.mark.slow
def test_a_stuck_clip_is_named_and_its_worker_replaced(table, stuck):
    clips = table(row_5=stuck)
    first, second = read(clips, 2, stuck_after_s=8.0)  # a good clip may take a while too
    assert first.skipped == (SkippedClip(5, stuck, "no answer within 8 s"),)
    assert first.rows == (3, 0, 6, 6)
    assert same([second], read(clips, 0, PLAN[1:]))
    assert children() == []


@pytest.mark.slow
def test_a_killed_worker_costs_the_clip_that_it_read(table, stuck):
    clips = table(row_5=stuck)
    with ClipLoader(clips, seed=7, settings=settings(1)) as loader:
        batches = loader.batches(0, PLAN)
        with opened_once_it_is_read(stuck):
            (worker,) = children()
            os.kill(worker, signal.SIGKILL)
            first, second = batches
        (replacement,) = children()
    assert worker != replacement
    assert first.skipped == (SkippedClip(5, stuck, "its reader died with exit code -9"),)
    assert first.rows == (3, 0, 6, 6)
    assert same([second], read(clips, 0, PLAN[1:]))


@contextlib.contextmanager
def opened_once_it_is_read(pipe):
    """Holds a named pipe's other end, so that who reads it waits for more."""
    deadline = time.monotonic() + 300
    while True:
        try:
            end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody reads it yet
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield
    os.close(end)


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_waits_costs_nothing(table):
    clips = table()
    with ClipLoader(clips, seed=7, settings=settings(1)) as loader:
        before = list(loader.batches(0, PLAN))
        (worker,) = children()
        os.kill(worker, signal.SIGKILL)
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
        after = list(loader.batches(0, PLAN))
    assert same(before, after)
    assert [batch.skipped for batch in after] == [(), ()]


@pytest.mark.slow
def test_an_epoch_that_is_left_early_does_not_disturb_the_next(table):
    clips = table()
    plan = [micro_batch(index, *PLAN[index % 2].rows) for index in range(8)]
    with ClipLoader(clips, seed=7, settings=settings(2)) as loader:
        for _ in loader.batches(0, plan):
            break
        workers = children()
        after = list(loader.batches(1, PLAN))
        assert children() == workers
    assert same(after, read(clips, 0, PLAN, epoch=1))


@pytest.mark.slow
def test_closing_does_not_wait_for_a_stuck_clip(table, stuck):
    clips = table(row_5=stuck)
    with ClipLoader(clips, seed=7, settings=settings(1)) as loader:
        loader.batches(0, PLAN)
        time.sleep(1)
        began = time.monotonic()
    assert time.monotonic() - began < 20  # far less than a clip may be stuck
    assert children() == []


@pytest.mark.slow
def test_no_more_than_prefetch_batches_are_read_ahead(table, films):
    clips = table()
    plan = [micro_batch(index, index % 8) for index in range(16)]
    with ClipLoader(clips, seed=7, settings=settings(1, prefetch=2)) as loader:
        batches = loader.batches(0, plan)
        next(batches)
        time.sleep(1)
        begun = next(loader._numbers)
        list(batches)
    assert begun <= 3


@pytest.mark.slow
def test_open_files_do_not_grow_with_the_clips_read(table, broken):
    clips = table(row_0=broken)
    plan = [micro_batch(index, *np.roll(range(8), index).tolist()) for index in range(25)]
    with ClipLoader(clips, seed=7, settings=settings(1)) as loader:
        list(loader.batches(0, PLAN))
        gc.collect()  # what other tests left open
        before = len(list(Path("/proc/self/fd").iterdir()))
        list(loader.batches(1, plan))
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


PROGRAM = """\
import os, sys, time
sys.path.insert(0, {repository!r})
if __name__ == "__main__":
    from pathlib import Path
    from trainer.config import DataConfig
    from trainer.data.batch_sampler import MicroBatch
    from trainer.data.buckets import Bucket
    from trainer.data.dataset import load_clips
    from trainer.data.loader import ClipLoader
    clips = load_clips(Path({csv!r}))
    settings = DataConfig(path="", workers=2, prefetch=2, stuck_after_s=600.0)
    bucket = Bucket("144p", 4, "0.67", 32, 48, 2)
    plan = [MicroBatch(0, bucket, (1, 3)), MicroBatch(1, bucket, (5, 6))]
    with ClipLoader(clips, seed=7, settings=settings) as loader:
        for batch in loader.batches(0, plan):
            sys.stdout.write("ready\\n")
            sys.stdout.flush()
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent_even_while_they_are_stuck(table, stuck, tmp_path):
    table(row_5=stuck)
    repository = str(Path(__file__).parents[3])
    program = tmp_path / "program.py"
    csv = str(tmp_path / "clips.csv")
    program.write_text(textwrap.dedent(PROGRAM.format(repository=repository, csv=csv)))
    environment = {**os.environ, "MARK": str(tmp_path)}
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        assert len(processes_with(f"MARK={tmp_path}")) >= 3
        parent.kill()
    deadline = time.monotonic() + 60
    while processes_with(f"MARK={tmp_path}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_with(f"MARK={tmp_path}") == []


def processes_with(mark):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def test_a_picture_comes_from_a_worker_as_it_is(tmp_path):
    Image.fromarray(np.arange(50 * 70 * 3, dtype=np.uint8).reshape(50, 70, 3)).save(
        tmp_path / "picture.png"
    )
    columns = {"path": [str(tmp_path / "picture.png")], "text": ["a picture"], "num_frames": 1}
    table = pd.DataFrame({**columns, "height": 50, "width": 70})
    table.to_csv(tmp_path / "pictures.csv", index=False)
    bucket = Bucket("144p", frames=1, ratio="0.67", height=32, width=48, batch_size=1)
    plan = [MicroBatch(0, bucket, (0,))]
    clips = load_clips(tmp_path / "pictures.csv")
    [here], [there] = read(clips, 0, plan), read(clips, 1, plan)
    assert (there.skipped, there.is_empty) == ((), False)
    assert torch.equal(here.video, there.video)
