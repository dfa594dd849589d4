import json

import pytest

from tests.soractl.gallery.evaluated import PROMPTS, moving, publish, video
from trainer.run_dir import create_run
from trainer.sampling.films import poster_of, write_poster, write_video
from trainer.sampling.judge import measures_of


@pytest.fixture
def run(tmp_path):
    """A run of two attempts that logged losses, without evaluations."""
    run = create_run(tmp_path / "runs", "smoke")
    run.run_json.write_text("{}")
    rows = [
        {"global_step": step, "loss": 1.0 - step / 1000, "attempt": 1 + step // 200}
        for step in (100, 200, 300)
    ]
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return run


@pytest.fixture
def filmed(run):
    """The run with real videos of three prompts at eight checkpoints."""
    for step in range(100, 900, 100):
        folder = run.evaluation("low4s", step)
        made = []
        for number in range(len(PROMPTS)):
            film = moving(40 + 30 * number)
            if (step, number) == (200, 1):
                film[:] = film[:1]  # frozen
            one = video(number, measures=measures_of(film))
            write_video(film, folder / one["name"], 24)
            write_poster(film, poster_of(folder / one["name"]))
            made.append(one)
        publish(run, step, made)
    return run
