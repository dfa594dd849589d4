import faulthandler
import itertools
import json
import os
import signal
import subprocess
import sys
import time

from soractl.clips.clip_reader import read_all


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
            "soractl.clips.clip_reader",
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
