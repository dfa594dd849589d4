import contextlib
import gc
import os
import random
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from tests.soractl.data.odd_files import write_odd_files
from trainer.data.clip_workers import ClipTask, ClipWorkers

READS, WARM_UP = 5000, 1000
GOOD = {"good.mp4", "good.mkv"}
BAD = {  # for a clip of four frames, wherever it begins
    *("one-frame.mp4", "audio-only.mp4", "cut.mp4", "empty.mp4", "text.mov", "missing.mp4"),
    *("good.png", "cut.png"),
}
DAMAGED = {"cut.mkv", "flipped.mp4"}  # readable in parts


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_files(tmp_path_factory.mktemp("clips") / "odd")


def workers_of_this_process():
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()) and b"spawn_main" in (process / "cmdline").read_bytes():
                found.append(process)
    return sorted(found)


def open_files(process):
    return len(list((process / "fd").iterdir()))


def memory_mb(process):
    [line] = [line for line in (process / "status").read_text().splitlines() if "RssAnon" in line]
    return int(line.split()[1]) / 1024


@pytest.mark.slow
def test_thousands_of_reads_of_good_and_bad_files_leave_nothing_behind(odd):
    names = [*GOOD, *BAD, *DAMAGED]
    draw = random.Random(0)
    faults, good_reads = defaultdict(set), defaultdict(int)
    workers = ClipWorkers(2, stuck_after_s=60)

    def read(numbers):
        name_of = {number: draw.choice(names) for number in numbers}
        for number, name in name_of.items():
            workers.submit(number, ClipTask(str(odd / name), draw.randrange(36), 4, 32, 48))
        while name_of:
            for number, answer in workers.answers():
                name = name_of.pop(number)
                if answer.clip is None:
                    faults[name].add(answer.fault)
                else:
                    assert answer.clip.shape == (3, 4, 32, 48)
                    good_reads[name] += 1

    try:
        read(range(WARM_UP))
        processes = [*workers_of_this_process(), Path("/proc/self")]
        gc.collect()  # what other tests left open
        files = [open_files(process) for process in processes]
        memory = [memory_mb(process) for process in processes]
        read(range(WARM_UP, READS))
        assert [*workers_of_this_process(), Path("/proc/self")] == processes
        now_open = [open_files(process) for process in processes]
        assert all(now <= before for now, before in zip(now_open, files, strict=True))
        growth = [memory_mb(now) - before for now, before in zip(processes, memory, strict=True)]
    finally:
        workers.close()
    assert len(processes) == 3
    assert statistics.median(growth) < 10  # of a leak each would be much larger
    assert faults.keys() - DAMAGED == BAD
    assert all("no answer" not in fault for name in BAD for fault in faults[name])
    assert good_reads.keys() - DAMAGED == GOOD


@pytest.mark.slow  # a worker starts
def test_a_worker_needs_no_more_memory_than_a_few_frames_and_the_clip(write_video, tmp_path):
    film = write_video(tmp_path / "film.mp4", 72, size=(720, 1280))
    workers = ClipWorkers(1, stuck_after_s=60)

    def read(frames):
        workers.submit(frames, ClipTask(film, 0, frames, 144, 256))
        while not (answers := list(workers.answers())):
            pass
        [(_, answer)] = answers
        assert answer.clip is not None
        [process] = workers_of_this_process()
        [line] = [line for line in (process / "status").read_text().splitlines() if "VmHWM" in line]
        return int(line.split()[1]) / 1024

    try:
        few, many = read(24), read(72)  # 16 frames or more fill the decoder's own store
    finally:
        workers.close()
    more = 48 * 3 * 144 * 256 * 4 / 2**20
    assert many - few < 3 * more  # in full size, even as bytes, they would take 6.5 times
