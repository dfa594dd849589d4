import pandas as pd
import pytest

from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.run_dir import create_run
from trainer.settings import ConfigError
from trainer.setup import prepare


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "smoke")


def prepared(run, ranks, *, rows=8, start=None):
    """Set up an attempt over a table of films that nobody reads."""
    attempt = run.new_attempt()
    columns = {"path": [f"{row}.mp4" for row in range(rows)], "text": "a cat", "num_frames": 40}
    table = run.path / "clips.csv"
    pd.DataFrame({**columns, "height": 144, "width": 256}).to_csv(table, index=False)
    write_json(attempt.plan, {"start": start or {"kind": "fresh"}})
    unused = "vae.weights=is/not/looked/for"
    settings = load_stage("smoke", [f"data.path={table}", unused]).config
    return prepare(run, attempt, settings, ranks)


def test_a_table_without_a_step_is_refused_before_any_network_is_loaded(run, group_of_one):
    with pytest.raises(ConfigError, match="none of its 1 clips can be trained on by 1 ranks"):
        prepared(run, group_of_one, rows=1)


def test_a_checkpoint_that_is_not_complete_is_refused_with_the_reason(run, group_of_one):
    folder = run.checkpoints_folder / "epoch0-global_step5"
    folder.mkdir()
    start = {"kind": "resume", "path": str(folder)}
    with pytest.raises(ConfigError) as refused:
        prepared(run, group_of_one, start=start)
    assert str(refused.value) == f"{folder} is no complete checkpoint: no checkpoint.json"
