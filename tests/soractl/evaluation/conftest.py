import pytest

from soractl.evaluation.find_new import Item, digest_of
from tests.making import make_manifest
from tests.soractl.gallery.evaluated import moving
from trainer.atomic_files import write_json
from trainer.run_dir import create_run
from trainer.sampling.films import poster_of, write_poster, write_video
from trainer.sampling.judge import measures_of


@pytest.fixture
def run(tmp_path):
    """A run with one complete checkpoint, of step 100."""
    run = create_run(tmp_path / "runs", "smoke")
    run.run_json.write_text("{}")
    draft = run.draft_path(0, 100)
    draft.mkdir()
    run.publish(draft, make_manifest(100))
    return run


@pytest.fixture
def item(run):
    """Its checkpoint, to be sampled by a preset `toy`."""
    (checkpoint,) = run.checkpoints()
    return Item(run, checkpoint, "toy", digest_of(checkpoint))


@pytest.fixture
def film(item):
    """Make a task's video, poster and manifest, as a sampler does; returns the task."""

    def make(number, *, frozen=False):
        path = item.folder / f"sample_{number:04d}.mp4"
        video = moving(40 + 30 * number, frames=8)
        if frozen:
            video[:] = video[:1]
        write_video(video, path, 24)
        write_poster(video, poster_of(path))
        made = {"poster": poster_of(path).name, "measures": measures_of(video)}
        write_json(path.with_suffix(".json"), made)
        return {
            "file": str(path),
            "text": f"prompt {number}",
            "seed": 42,
            "height": 72,
            "width": 128,
        }

    return make
