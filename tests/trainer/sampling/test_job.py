import json
import math
import weakref
from dataclasses import asdict, replace
from importlib.metadata import version

import pytest
import torch

from trainer.atomic_files import describe_file
from trainer.sampling import job
from trainer.sampling.job import Choices, Task, Worker, perform, plan, together
from trainer.sampling.memory import TooLarge
from trainer.sampling.prompt_files import Entry
from trainer.sampling.prompts import Scores
from trainer.settings import ConfigError

SMALL = Choices(frames="17", resolution="144p", steps=1)


@pytest.fixture(scope="module")
def worker():
    return Worker()


def test_a_manifest_names_packages_but_those_without_an_installed_version(monkeypatch):
    monkeypatch.setattr(job, "_PACKAGES", ("no-such-package", "torch"))
    assert job._versions() == {"torch": version("torch")}


def test_a_task_travels_as_json(random_checkpoint):
    choices = replace(SMALL, scores=Scores(6.5, None, "pan left"), samples=2)
    tasks = plan(random_checkpoint, [Entry("a cat", id="cat")], choices, None)
    assert [Task.of(json.loads(json.dumps(asdict(task)))) for task in tasks] == tasks
    folder = random_checkpoint.path.parent.parent / "samples" / "17x144x256" / "global_step1"
    assert [task.path for task in tasks] == [folder / "cat-0.mp4", folder / "cat-1.mp4"]


def test_a_prompt_of_a_file_may_have_its_own_size_and_seed(random_checkpoint):
    entry = Entry("a cat", seed=7, frames="1", resolution="240p", ratio="1:1", fps=8)
    task, other = plan(random_checkpoint, [entry, Entry("a dog")], SMALL, None)
    assert (task.seed, task.frames, task.height, task.width, task.fps) == (7, 1, 320, 320, 8)
    assert task.path.suffix == ".png"
    assert (other.seed, other.frames, other.height, other.width) == (42, 17, 144, 256)


@pytest.mark.parametrize(
    ("choices", "fault"),
    [
        (replace(SMALL, samples=0), "--num-samples 0; expected at least 1"),
        (replace(SMALL, steps=0), "--steps 0; expected at least 1"),
        (replace(SMALL, fps=0), "--fps 0; expected at least 1"),
        (replace(SMALL, cfg_scale=math.nan), "--cfg-scale nan; expected a number"),
    ],
)
def test_numbers_that_make_no_video_are_refused(random_checkpoint, choices, fault):
    with pytest.raises(ConfigError) as caught:
        plan(random_checkpoint, [Entry("a cat")], choices, None)
    assert str(caught.value) == fault


def test_files_are_equal_in_any_order_and_process_and_samples_differ(
    random_checkpoint, tmp_path, worker
):
    three = replace(SMALL, samples=3)
    entries = [Entry("a cat"), Entry("a dog")]
    tasks = plan(random_checkpoint, entries, three, tmp_path / "one")
    for task in tasks:
        worker.perform([task])
    again = plan(random_checkpoint, entries, three, tmp_path / "other")
    other = Worker()
    for task in reversed(again):
        other.perform([task])
    sums = [describe_file(task.path)["sha256"] for task in tasks]
    assert [describe_file(task.path)["sha256"] for task in again] == sums
    assert len(set(sums)) == 6


def test_a_video_counts_as_done_only_with_its_manifest_and_for_the_same_task(
    random_checkpoint, tmp_path, worker
):
    (task,) = plan(random_checkpoint, [Entry("a cat")], SMALL, tmp_path)
    assert not task.is_done()
    worker.perform([task])
    assert task.is_done()
    manifest = json.loads(task.manifest.read_text())
    assert manifest["video"] == {"name": "sample_0000.mp4", **describe_file(task.path)}
    assert (manifest["task"]["text"], manifest["task"]["seed"]) == ("a cat", 42)
    assert not replace(task, seed=43).is_done()
    assert not replace(task, digest="0").is_done()
    task.path.write_bytes(task.path.read_bytes()[:-1])
    assert not task.is_done()
    worker.perform([task])
    task.manifest.write_text("{")
    assert not task.is_done()


@pytest.mark.parametrize(
    ("most", "words"),
    [(40, "--frames 34 does"), (17, "--frames 17 does"), (0, "not even one frame does")],
)
def test_a_video_that_does_not_fit_the_memory_says_what_would(random_checkpoint, most, words):
    class Small:
        """A sampler on a GPU that holds so many frames."""

        def sample_together(self, shots, preset, progress=None):
            self.sample(None, preset, 1)

        def sample(self, prompt, preset, seed):
            if preset.frames > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

    (task,) = plan(random_checkpoint, [Entry("a cat")], replace(SMALL, frames="68"), None)
    with pytest.raises(TooLarge) as caught:
        perform([task], Small())
    assert str(caught.value).startswith(
        f"68 frames of 144x256 do not fit this GPU's memory; {words}"
    )


def test_a_video_that_no_machine_holds_is_refused_before_networks_are_loaded(random_checkpoint):
    worker = Worker()
    choices = replace(SMALL, frames="408", resolution="1080p", loops=2_000)
    (task,) = plan(random_checkpoint, [Entry("a cat")], choices, None)
    with pytest.raises(TooLarge, match=r"408 frames of 1080x1920 in 2000 loops take at least 59,"):
        worker.perform([task])
    assert worker._sampler is None


class Full:
    """A sampler on a GPU that is always full; its error holds what was on it."""

    def __init__(self):
        self.held, self.still_held = [], []

    def sample_together(self, shots, preset, progress=None):
        self.sample(None, preset, 1)

    def sample(self, prompt, preset, seed):
        self.still_held.append(sum(one() is not None for one in self.held))
        activations = torch.zeros(1)
        self.held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_of_what_did_not_fit_is_free_before_less_is_tried(random_checkpoint):
    full = Full()
    tasks = plan(random_checkpoint, [Entry("a cat"), Entry("a dog")], SMALL, None)
    with pytest.raises(TooLarge):
        perform(tasks, full)
    # two videos, one of them, then 8, 4, 2 and 1 of its 17 frames
    assert full.still_held == [0] * 6


def test_videos_are_made_together_where_a_gpu_is_not_full_with_one(random_checkpoint):
    sizes = {("17", "144p"): 8, ("102", "144p"): 3, ("102", "360p"): 1, ("1", "720p"): 4}
    for (frames, resolution), most in sizes.items():
        choices = replace(SMALL, frames=frames, resolution=resolution)
        (task,) = plan(random_checkpoint, [Entry("a cat")], choices, None)
        assert together(task, on_gpu=True) == most
        assert together(task, on_gpu=False) == 1


def test_what_does_not_fit_together_is_made_in_halves_and_is_the_same(
    random_checkpoint, tmp_path, worker
):
    class Small:
        """A sampler on a GPU that holds two videos at once."""

        def __init__(self):
            self.sizes = []

        def sample_together(self, shots, preset, progress=None):
            self.sizes.append(len(shots))
            if len(shots) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return worker._sampler.sample_together(shots, preset, progress)

    entries = [Entry(f"a cat {number}") for number in range(5)]
    tasks = plan(random_checkpoint, entries, replace(SMALL, frames="1"), tmp_path / "all")
    worker.perform(tasks[:1])
    small = Small()
    assert len(perform(tasks, small)) == 5
    assert small.sizes == [5, 2, 3, 1, 2]
    assert all(task.is_done() for task in tasks)
