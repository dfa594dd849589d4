import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.soractl.data.odd_files import write_video
from trainer.data.features import sets_in

CLIPS = 12
ONE_CLIP_SHARDS = "tests.soractl.data.encode_one_clip_shards"
REPOSITORY = Path(__file__).parent.parent.parent.parent


def encoded(folder):
    """(kind, variant, row) of everything in the shards, and of all clips that failed."""
    found, failed = [], []
    for kind in ("text", "video"):
        for features in sets_in(folder, kind):
            for file in features.path.glob("v*.safetensors"):
                variant = int(file.name[1 : file.name.index("-")])
                with safe_open(file, "pt") as tensors:
                    names = tensors.keys()
                    faults = json.loads(tensors.metadata()["failed"])
                names = [name for name in names if not name.startswith("fps.")]
                found += [(kind, variant, int(name.partition(".")[2])) for name in names]
                failed += [(kind, variant, int(row)) for row in faults]
    return sorted(found), sorted(failed)


def all_of(clips, variants):
    texts = [("text", 0, row) for row in range(clips)]
    return texts + [("video", v, row) for v in range(variants) for row in range(clips)]


@pytest.fixture
def table(workplace):
    """Makes the smoke stage's table, with as many clips as wanted; the last is broken."""

    def make(clips):
        folder = workplace.folder / "data" / "smoke"
        write_video(folder / "0.mp4", frames=24, size=(144, 256))
        for row in range(1, clips - 1):
            os.link(folder / "0.mp4", folder / f"{row}.mp4")
        (folder / f"{clips - 1}.mp4").write_bytes(b"no film")
        rows = "".join(f"{folder}/{row}.mp4,film {row},24,144,256\n" for row in range(clips))
        workplace.write("data/smoke/clips.csv", f"path,text,num_frames,height,width\n{rows}")
        (workplace.folder / "configs").symlink_to(REPOSITORY / "configs")

    return make


@pytest.mark.slow  # five interpreters with torch
def test_the_size_comes_first_then_the_features_then_what_failed(workplace, table):
    table(4)
    asked = ("data", "encode", "smoke", "--out", "features", "--set", "data.workers=0")
    dry = workplace.soractl(*asked, "--dry-run", "--json")
    values = json.loads(dry.stdout)
    latents, tokens, width, item = 4 * 5 * 18 * 32, len("film 0") + 1, 32, 2
    assert [part["bytes"] for part in values["parts"]] == [
        *(4 * tokens * width * item, 4 * latents * item),
    ]
    assert not (workplace.folder / "features").exists()
    done = workplace.soractl(*asked, code=3)
    assert "captions  4       1         1.8 kB   0" in done.stderr
    reason, clip, text, video, last = done.stdout.splitlines()
    assert reason == "1 Invalid data found when processing input"
    assert (
        clip == f"  {workplace.folder}/data/smoke/3.mp4: Invalid data found when processing input"
    )
    assert text.startswith("4 captions encoded, 0 failed, ")
    assert video.startswith("3 clips encoded, 1 failed, ")
    assert last.endswith("to train on them: --set data.features=features")
    found, failed = encoded(workplace.folder / "features")
    assert failed == [("video", 0, 3)]
    assert found == [item for item in all_of(4, 1) if item not in failed]


@pytest.mark.slow  # an interpreter with torch
def test_a_refusal_of_the_trainer_is_one_error(workplace):
    asked = ("data", "encode", "smoke", "--out", "features", "--set", "data.path=none.csv")
    refused = workplace.soractl(*asked, code=2)
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("error")]
    assert line.endswith(
        ": data.path = none.csv: no such file; `--set data.path=OTHER` names another"
    )


@pytest.mark.parametrize("out", ["taken", "taken/features"])
def test_a_folder_that_cannot_be_made_is_one_error(workplace, out):
    workplace.write("taken", "a file")
    refused = workplace.soractl("data", "encode", "smoke", "--out", out, code=2)
    assert refused.stderr == f"error: {out}: taken is a file\nhint: give the name of a folder\n"


def test_a_node_that_cannot_be_reached_is_one_error(workplace):
    workplace.write("hostfiles/far.txt", "soractl@127.0.77.99:9 slots=2\n")
    (workplace.folder / "configs").symlink_to(REPOSITORY / "configs")
    asked = ("data", "encode", "smoke", "--out", "features", "--hostfile", "far.txt")
    refused = workplace.soractl(*asked, code=4)
    assert refused.stderr.startswith("error: 127.0.77.99: unreachable")


def kill_all_of(mark):
    """KILL to the command that has this word, and only to it."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if ONE_CLIP_SHARDS.encode() in words and mark.encode() in words:
                os.kill(int(process.name), signal.SIGKILL)


def processes_of(folder):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SORACTL_RUN_ID={folder}".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.ssh
def test_killed_in_the_middle_on_two_nodes_every_clip_is_encoded_once(
    workplace, table, start_cluster
):
    table(CLIPS)
    out = workplace.folder / "features"
    cluster = start_cluster(2)
    workplace.write("hostfiles/two.txt", "n[1-2] slots=1\n")
    workplace.write(
        "hostfiles/two.toml",
        f'environment = "{Path(sys.executable).parent}"\n'
        f'[env]\nOMP_NUM_THREADS = 1\nPYTHONPATH = "{REPOSITORY}"\n',
    )

    def start():
        return subprocess.Popen(
            [
                *(Path(__file__).parent.parent.parent / "cluster" / "cluster.sh", "head"),
                *("env", "-u", "SORACTL_HOSTFILE", sys.executable, "-m", ONE_CLIP_SHARDS, str(out)),
            ],
            env={
                **os.environ,
                "SORACTL_CLUSTER": str(cluster.folder),
                "PYTHONPATH": str(REPOSITORY),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start()
    while len(list(out.glob("*/v*"))) < CLIPS + 3:
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    kill_all_of(str(out))
    first.communicate()
    while processes_of(out):  # they notice that nobody listens
        time.sleep(0.05)
    before = {file: file.stat().st_ino for file in out.glob("*/v*")}
    assert CLIPS + 3 <= len(before) < 3 * CLIPS
    second = start()
    out_text, err = second.communicate(timeout=300)
    assert second.returncode == 3, out_text + err
    after = {file: file.stat().st_ino for file in out.glob("*/v*")}
    assert before.items() < after.items()
    found, failed = encoded(out)
    assert failed == [("video", variant, CLIPS - 1) for variant in (0, 1)]
    assert found == [item for item in all_of(CLIPS, 2) if item not in failed]
    assert not list(out.glob("*/.*.draft"))
    ranks = [json.loads(file.read_text())["done"] for file in out.glob(".progress/*.json")]
    assert len(ranks) == 2
    assert sum(ranks) == 3 * CLIPS
    assert min(ranks) > CLIPS
