"""A training on one node and `eval` on another, which share no folder (tests/cluster)."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.soractl.conftest import CLUSTER_SH
from tests.waiting import wait_for
from trainer.data import smoke_clips
from trainer.metrics.wandb_files import media_of, offline_files
from trainer.run_dir import RunDir

REPOSITORY = CLUSTER_SH.parent.parent.parent
SOON_S = 900
NAMES = ("sample_0000", "sample_0001")
SETTINGS = (
    "buckets.frames=[1,17]",
    "buckets.batch_size={144p=[1,1],240p=[1,1]}",
    "buckets.keep={144p=[1.0,1.0],240p=[0.0,0.0]}",
    "data.workers=0",
    "trainer.max_steps=6",
    "checkpoint.every_steps=2",
    "checkpoint.keep_last=0",
    "log.wandb=true",
    "log.tensorboard=false",
    "vae.micro_batch_size=16",
)


class Nodes:
    """Programs of soractl on nodes, each in a folder of its own; they end with the cluster."""

    def __init__(self, cluster):
        self._environ = {**os.environ, "SORACTL_CLUSTER": str(cluster.folder)}

    def start(self, node, folder, *arguments):
        """`soractl ARGUMENTS` on a node; what it prints goes to `NAME.log` in the folder."""
        words = ["env", f"PYTHONPATH={REPOSITORY}", "SORACTL_HOSTFILE=", "OMP_NUM_THREADS=1"]
        program = [sys.executable, "-m", "soractl.cli", *arguments]
        with (folder / f"{arguments[0]}.log").open("wb") as log:
            return subprocess.Popen(
                [CLUSTER_SH, "node", str(node), *words, *program],
                cwd=folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


@pytest.fixture
def there(tmp_path):
    """The folder of the training, with a data set."""
    folder = tmp_path / "there"
    (folder / "data").mkdir(parents=True)
    smoke_clips.make(folder / "data")
    return folder


@pytest.fixture
def here(tmp_path):
    """The folder of the evaluation, with prompts and a preset."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    tiny = 'frames = "17"\nresolution = "144p"\nratio = "9:16"\nsteps = 1\n'
    (folder / "tiny.toml").write_text(tiny)
    return folder


@pytest.mark.slow  # two nodes, two ranks, and a sampler load torch
def test_each_checkpoint_is_once_in_the_gallery_and_in_the_offline_files_of_one_wandb_run(
    start_cluster, there, here
):
    cluster = start_cluster(2)
    nodes = Nodes(cluster)
    cluster.do("node", "2", "mount", "-t", "tmpfs", "tmpfs", str(there))
    assert cluster.do("node", "2", "ls", str(there)) == ""
    settings = [f"data.path={there / 'data' / 'clips.csv'}", *SETTINGS]
    wanted = [word for setting in settings for word in ("--set", setting)]
    training = nodes.start(1, there, "launch", "smoke", *wanted)
    run = RunDir(there / "runs" / "001-smoke")
    wait_for(run.checkpoints, SOON_S)
    evaluating = nodes.start(
        *(2, here, "eval", "latest", "--from", f"n1:{there}/runs", "--prompts", "prompts.txt"),
        *("--preset", "tiny.toml", "--every", "1"),
    )
    try:
        assert training.wait(SOON_S) == 0, (there / "launch.log").read_text()
        steps = [one.manifest.global_step for one in run.checkpoints()]
        once = Counter((f"eval_tiny/{name}", step) for step in steps for name in NAMES)
        wait_for(lambda: media_of_all(run) == once or evaluating.poll() is not None, SOON_S)
        assert evaluating.poll() is None, (here / "eval.log").read_text()
    finally:
        for program in (training, evaluating):
            program.kill()
            program.wait()
    assert (steps, media_of_all(run)) == ([2, 4, 6], once)
    assert columns(run) == [(step, [f"{name}.mp4" for name in NAMES]) for step in steps]
    assert {file.stem for file in offline_files(run.path / "wandb")} == {
        f"run-{run.wandb_id.read_text()}"
    }
    assert not (here / "runs" / run.name / "wandb").exists()


def media_of_all(run: RunDir) -> Counter:
    """How often each video stands in all offline files together."""
    files = offline_files(run.path / "wandb")
    return Counter(media for file in files for media in media_of(file))


def columns(run: RunDir) -> list[tuple[int, list[str]]]:
    """The gallery in the training's folder: steps, and the videos of each."""
    page = json.loads(Path(run.gallery_data).read_text()[len("showGallery(") : -3])
    found = page["runs"][0]["presets"]["tiny"]["checkpoints"]
    return [(one["step"], [video[0] for video in one["videos"]]) for one in found]
