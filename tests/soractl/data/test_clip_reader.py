import faulthandler
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from soractl.data.clip_facts import decode, measure
from soractl.data.clip_reader import read_all
from tests.soractl.data.odd_files import write_odd_files
from trainer.data.formats import Unfit

NO_INDEX = "Invalid data found when processing input: mov,mp4,m4a,3gp,3g2,mj2: moov atom not found"
ENDED = "matroska,webm: File ended prematurely"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_files(tmp_path_factory.mktemp("clips") / "odd")


def answer_of(read, path, *expected):
    try:
        return read(str(path), *expected)
    except Unfit as fault:
        return str(fault)


def numbers(path, frames, height, width, fps):
    return {
        "num_frames": frames,
        "height": height,
        "width": width,
        "aspect_ratio": height / width,
        "fps": fps,
        "resolution": height * width,
        "file_size": path.stat().st_size,
    }


def test_measuring_reads_the_numbers_of_a_clip_from_its_header(odd):
    assert answer_of(measure, odd / "good.mp4") == numbers(odd / "good.mp4", 40, 64, 96, 24.0)
    assert answer_of(measure, odd / "one-frame.mp4") == numbers(
        odd / "one-frame.mp4", 1, 64, 96, 24.0
    )


def test_frames_are_counted_if_the_header_has_no_number(odd):
    assert answer_of(measure, odd / "good.mkv") == numbers(odd / "good.mkv", 40, 64, 96, 24.0)


def test_a_picture_is_one_frame_without_a_rate(odd):
    measured = answer_of(measure, odd / "good.png")
    assert math.isnan(measured.pop("fps"))
    assert {**measured, "fps": None} == numbers(odd / "good.png", 1, 16, 32, None)


def test_a_file_that_cannot_be_measured_gives_its_reason(odd):
    (odd / "notes.txt").write_text("no clip")
    bad = ("audio-only.mp4", "cut.mp4", "empty.mp4", "text.mov", "missing.mp4", "notes.txt")
    assert [answer_of(measure, odd / name) for name in bad] == [
        "no video stream",
        NO_INDEX,
        "the file is empty",
        NO_INDEX,
        "No such file or directory",
        "neither a video (.mp4, .avi, .mov, .mkv) nor an image",
    ]


def test_decoding_finds_faults_that_measuring_does_not_see(odd):
    assert answer_of(decode, odd / "good.mp4") == {"num_frames": 40}
    assert answer_of(decode, odd / "good.mkv") == {"num_frames": 40}
    assert answer_of(decode, odd / "one-frame.mp4") == {"num_frames": 1}
    assert answer_of(decode, odd / "good.png") == {"num_frames": 1}
    assert answer_of(decode, odd / "cut.mkv") == answer_of(decode, odd / "cut.mkv") == ENDED
    assert "Invalid NAL unit size" in answer_of(decode, odd / "flipped.mp4")
    assert answer_of(decode, odd / "cut.png") != {"num_frames": 1}
    assert answer_of(decode, odd / "audio-only.mp4") == "no video stream"


def test_fewer_frames_than_the_table_says_are_a_fault(odd):
    assert answer_of(decode, odd / "good.mp4", 40) == {"num_frames": 40}
    assert answer_of(decode, odd / "good.mp4", 41) == "40 frames, where the table says 41"


def misbehave(path, _):
    """Reads a clip by doing what its path says."""
    if path == "crash":
        faulthandler.disable()  # pytest's, which would print this process's end
        os.kill(os.getpid(), signal.SIGSEGV)
    if path == "hang":
        time.sleep(60)
    if path == "leave":
        os._exit(3)
    if path == "raise":
        raise RuntimeError("a bug")
    time.sleep(0.05)
    return {}


def test_a_clip_that_crashes_or_hangs_its_reader_stops_no_other():
    paths = ["crash", "hang", "leave", "raise", *map(str, range(8))]
    tasks = [{"path": path} for path in paths]
    answers = list(read_all(tasks, misbehave, workers=2, stuck_after_s=4, may_begin=lambda: True))
    assert {answer["path"]: answer["reason"] for answer in answers} == {
        "crash": "its reader crashed: SIGSEGV",
        "hang": "not finished within 4 s",
        "leave": "its reader crashed: exit code 3",
        "raise": "RuntimeError: a bug",
        **{str(number): "" for number in range(8)},
    }
    assert len(answers) == len(paths)


def test_clips_that_are_begun_are_finished_and_no_more_are_begun_after_the_time():
    tasks = [{"path": str(number)} for number in range(9)]
    in_time = itertools.chain([True] * 3, itertools.repeat(False))
    answers = list(
        read_all(tasks, misbehave, workers=2, stuck_after_s=60, may_begin=lambda: next(in_time))
    )
    assert sorted((answer["path"], answer["ok"]) for answer in answers) == [
        *(("0", True), ("1", True), ("2", True)),
    ]


def test_the_program_answers_in_lines_of_json(odd):
    tasks = [{"path": str(odd / "good.mp4"), "num_frames": 40}, {"path": str(odd / "empty.mp4")}]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "soractl.data.clip_reader",
            "check",
            "--seconds=9",
            "--stuck-after=9",
        ],
        input="\n".join(map(json.dumps, tasks)),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = sorted(map(json.loads, done.stdout.splitlines()), key=lambda answer: answer["ok"])
    assert [{**answer, "seconds": 0} for answer in answers] == [
        {"path": str(odd / "empty.mp4"), "ok": False, "reason": "the file is empty", "seconds": 0},
        {"path": str(odd / "good.mp4"), "ok": True, "reason": "", "num_frames": 40, "seconds": 0},
    ]
