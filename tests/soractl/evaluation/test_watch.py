import json
import os
import shutil
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from soractl.errors import SoractlError
from soractl.evaluation.evaluate import EvalOptions
from soractl.evaluation.presets import Preset
from soractl.evaluation.watch import WatchOptions, watch
from tests.making import publish_random_weights
from tests.soractl.evaluation.test_origin import KeptLines
from trainer.run_dir import create_run

TINY = Preset(frames="1", resolution="144p", ratio="9:16", steps=1)


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n")
    return EvalOptions("tiny", TINY, prompts)


def test_one_look_at_a_run_without_checkpoints_ends(options, tmp_path):
    run = create_run(tmp_path / "runs", "smoke")
    run.run_json.write_text("{}")
    watched = WatchOptions(("1",), tmp_path / "runs")
    assert list(watch(options, watched, os.environ, KeptLines())) == []


def test_a_checkpoint_that_is_never_sampled_is_shown_once(options, tmp_path):
    run = create_run(tmp_path / "runs", "smoke")
    run.run_json.write_text("{}")
    (run.checkpoints_folder / "epoch0-global_step7").mkdir(parents=True)
    display, waits = KeptLines(), iter((None, KeyboardInterrupt))

    def wait(_):
        if end := next(waits):
            raise end

    watched = WatchOptions(("1",), tmp_path / "runs", every_s=1.0)
    with pytest.raises(KeyboardInterrupt):
        list(watch(options, watched, os.environ, display, wait))
    assert display.lines == [
        "001-smoke epoch0-global_step7 is not sampled: no checkpoint.json",
    ]


def test_prompts_that_are_not_there_are_an_error_before_the_first_checkpoint(options, tmp_path):
    run = create_run(tmp_path / "runs", "smoke")
    run.run_json.write_text("{}")
    watched = WatchOptions(("1",), tmp_path / "runs")
    with pytest.raises(SoractlError, match=r"none\.txt: there is no such file of prompts"):
        list(watch(replace(options, prompts=Path("none.txt")), watched, os.environ, KeptLines()))


def test_the_gallery_is_shown_over_http_meanwhile(options, tmp_path):
    run = create_run(tmp_path / "runs", "smoke")
    run.run_json.write_text("{}")
    display, seen = KeptLines(), []

    def wait(_):
        (address,) = display.lines
        with urllib.request.urlopen(f"{address}gallery.js") as answer:
            seen.append(answer.read().decode())
        raise KeyboardInterrupt

    watched = WatchOptions(("1",), tmp_path / "runs", every_s=1.0, port=0)
    with pytest.raises(KeyboardInterrupt):
        list(watch(options, watched, os.environ, display, wait))
    assert json.loads(seen[0][len("showGallery(") : -3])["runs"][0]["name"] == "001-smoke"


def test_the_gallery_is_there_before_the_first_copy_from_another_machine(options, tmp_path):
    display = KeptLines()
    watched = WatchOptions(("latest",), tmp_path / "runs", "none.invalid:/runs", port=0)
    with pytest.raises(SoractlError):
        list(watch(options, watched, os.environ, display))
    assert [line[:17] for line in display.lines] == ["http://127.0.0.1:"]


@pytest.mark.slow  # a process loads torch
def test_checkpoints_of_another_machine_are_sampled_here_and_shown_there(lab, tmp_path, options):
    run = lab.run_at(lab.there / "runs")
    publish_random_weights(run, "log.wandb=false")
    shutil.copy(options.prompts, lab.here)
    environ = {**os.environ, "SORACTL_HOSTFILE": str(lab.here / "hostfiles" / "nodes.txt")}
    source, display = f"{lab.node}:{lab.there}/runs", KeptLines()
    watched = WatchOptions(("latest",), lab.here / "runs", source, upload=False)
    (end,) = watch(options, watched, environ, display)
    assert (end.videos, end.reason) == (1, "")
    result = json.loads(run.evaluation_result("tiny", 1).read_text())
    assert [video["name"] for video in result["videos"]] == ["sample_0000.png"]
    assert (run.evaluation("tiny", 1) / "sample_0000.png").exists()
    assert "sample_0000.png" in run.gallery_data.read_text()
    assert list(watch(options, watched, environ, display)) == []
