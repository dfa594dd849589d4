import pytest

from tests.end_to_end.forked import Trainer
from trainer.atomic_files import read_json


@pytest.mark.slow  # three starts of a rank
def test_a_refused_resume_leaves_no_settings_behind(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv, "trainer.max_steps=1")
    first = trainer.launch(world_size=1)
    assert first.end() == [0]
    other = "buckets.keep={144p=[0.5,1.0],240p=[0.0,0.0]}"
    refused = trainer.resume("latest", other, "trainer.max_steps=2", world_size=1)
    assert refused.end() == [1]
    [failure] = refused.dir.rank_failures()
    assert failure["error"].startswith("changed since epoch0-global_step1: buckets.keep; ")
    assert failure["remedy"] == {"reset_data": True}
    assert read_json(first.run.config_json) == read_json(first.dir.config_json)
    accepted = trainer.resume("latest", "trainer.max_steps=2", world_size=1)
    assert accepted.end() == [0]
    assert read_json(first.run.config_json) == read_json(accepted.dir.config_json)
