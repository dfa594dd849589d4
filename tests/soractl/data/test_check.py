import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from soractl.clips.clip_queue import QueueTiming
from soractl.data.check import CheckOptions, check
from soractl.data.report import check_lines
from tests.soractl.data.odd_files import write_video

CLIPS = 160


def logged(workplace):
    text = (workplace.folder / "clips.check.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def table(workplace, odd):
    rows = ["good.mp4,40", "cut.mkv,40", "good.mkv,41", "audio-only.mp4,1", "one-frame.mp4,1"]
    text = "".join(f"{odd}/{row}\n" for row in [*rows, "good.mp4,40"])
    return workplace.write("clips.csv", f"path,num_frames\n{text}")


def test_every_clip_is_decoded_and_the_healthy_rows_stay(workplace, odd, table):
    done = workplace.soractl("data", "check", "clips.csv", "--out", "ok.csv", code=3)
    assert sorted((entry["path"], entry["reason"]) for entry in logged(workplace)) == [
        (f"{odd}/audio-only.mp4", "no video stream"),
        (f"{odd}/cut.mkv", "matroska,webm: File ended prematurely"),
        (f"{odd}/good.mkv", "40 frames, where the table says 41"),
        (f"{odd}/good.mp4", ""),
        (f"{odd}/one-frame.mp4", ""),
    ]
    healthy = pandas.read_csv("ok.csv")
    assert [name.rpartition("/")[2] for name in healthy["path"]] == [
        *("good.mp4", "one-frame.mp4", "good.mp4"),
    ]
    assert done.stdout.splitlines()[-1] == (
        "2 healthy, 3 failed: ok.csv, clips.check.jsonl, ok.png"
    )


def test_a_second_check_needs_resume_or_retry_failed(workplace, odd, table):
    workplace.soractl("data", "check", "clips.csv", code=3)
    before = logged(workplace)
    refused = workplace.soractl("data", "check", "clips.csv", code=5)
    assert "hint: --resume continues" in refused.stderr
    workplace.soractl("data", "check", "clips.csv", "--resume", code=3)
    assert logged(workplace) == before
    retried = workplace.soractl("data", "check", "clips.csv", "--retry-failed", "--json", code=3)
    values = json.loads(retried.stdout)
    assert (values["healthy"], len(values["failed"]), values["not_checked"]) == (2, 3, 0)
    assert sorted(entry["path"] for entry in logged(workplace)[len(before) :]) == [
        *(f"{odd}/audio-only.mp4", f"{odd}/cut.mkv", f"{odd}/good.mkv"),
    ]


def test_an_empty_job_log_does_not_count_as_a_check(workplace, table):
    workplace.write("clips.check.jsonl", "")
    workplace.soractl("data", "check", "clips.csv", code=3)
    assert len(logged(workplace)) == 5


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9"])
def test_a_time_for_a_clip_that_is_not_between_0_and_a_day_is_refused(workplace, table, seconds):
    done = workplace.soractl("data", "check", "clips.csv", "--timeout", seconds, code=2)
    assert done.stderr == (
        f"error: --timeout must be more than 0 s and at most 86400 s: {float(seconds):g}\n"
    )
    assert not (workplace.folder / "clips.check.jsonl").exists()


def test_a_job_log_that_cannot_be_written_is_one_error(workplace, small_disk, odd):
    disk = small_disk("8k")
    (disk / "clips.csv").write_text("path\n" + "".join(f"{odd}/no-{n}.mp4\n" for n in range(60)))
    done = workplace.soractl("data", "check", str(disk / "clips.csv"), code=1)
    assert done.stderr.splitlines()[-2:] == [
        f"error: {disk}/clips.check.jsonl: No space left on device",
        "hint: free some space and continue: clips in this file are not read again",
    ]
    (disk / "clips.check.jsonl").unlink()
    (disk / "clips.check.jsonl").mkdir()
    done = workplace.soractl("data", "check", str(disk / "clips.csv"), code=2)
    assert done.stderr == f"error: {disk}/clips.check.jsonl: Is a directory\n"


def test_clips_stay_unchecked_if_no_node_can_be_reached(workplace, table):
    workplace.write("hostfiles/far.txt", "soractl@127.0.77.99:9\n")
    options = CheckOptions(Path("clips.csv"), hostfile="far.txt")
    checked = check(options, {}, lambda count: None, QueueTiming(pause_s=0))
    first, last = check_lines(checked, None)
    assert first.startswith("127.0.77.99 was given up: unreachable")
    assert last == "0 healthy, 0 failed, 5 not checked; continue with --resume"
    assert checked.exit_code == 4


@pytest.fixture
def on_three_nodes(workplace, start_cluster):
    """Start a check of many clips on three nodes, from the head node."""
    cluster = start_cluster(3)
    environment = Path(sys.executable).parent
    workplace.write("hostfiles/three.txt", "n[1-3]\n")
    workplace.write("hostfiles/three.toml", f'environment = "{environment}"\n')
    write_video(workplace.folder / "0.mp4", frames=120, size=(120, 160))
    for number in range(1, CLIPS):
        os.link(workplace.folder / "0.mp4", workplace.folder / f"{number}.mp4")
    workplace.write("clips.csv", "path\n" + "".join(f"{n}.mp4\n" for n in range(CLIPS)))

    def start(*options):
        return subprocess.Popen(
            [
                *(Path(__file__).parent.parent.parent / "cluster" / "cluster.sh", "head"),
                *("env", "-u", "SORACTL_HOSTFILE", sys.executable, "-m", "soractl.cli"),
                *("data", "check", "clips.csv", "--workers", "1", "--out", "ok.csv"),
                *("--hostfile", "three.txt", *options),
            ],
            env={**os.environ, "SORACTL_CLUSTER": str(cluster.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    start.cluster = cluster
    return start


def wait_for_entries(workplace, process, count):
    end = time.monotonic() + 60
    log = workplace.folder / "clips.check.jsonl"
    while not log.exists() or log.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def kill_all_of(folder):
    """KILL to everything that works in a folder on this machine's head node, and only there."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"check" in words and (process / "cwd").readlink() == folder:
                os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.ssh
def test_killed_in_the_middle_with_a_node_lost_every_clip_is_checked_once(
    workplace, on_three_nodes
):
    first = on_three_nodes()
    wait_for_entries(workplace, first, 40)
    kill_all_of(workplace.folder)
    first.communicate()
    before = logged(workplace)
    assert 40 <= len(before) < CLIPS
    for entry in before:
        clip = workplace.folder / entry["path"]
        clip.rename(f"{clip}.away")  # decoding it again would fail
    second = on_three_nodes("--resume")
    wait_for_entries(workplace, second, len(before) + 30)
    while second.poll() is None and "n2" not in {entry["node"] for entry in logged(workplace)}:
        time.sleep(0.02)
    on_three_nodes.cluster.do("off", "2")
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, out + err
    entries = logged(workplace)
    assert entries[: len(before)] == before
    assert sorted(entry["path"] for entry in entries) == sorted(f"{n}.mp4" for n in range(CLIPS))
    assert all(entry["ok"] and entry["num_frames"] == 120 for entry in entries)
    assert {entry["node"] for entry in entries} == {"n1", "n2", "n3"}
    assert pandas.read_csv("ok.csv")["path"].tolist() == [f"{n}.mp4" for n in range(CLIPS)]
