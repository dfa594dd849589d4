import pytest

from trainer.atomic_files import write_json
from trainer.run_dir import create_run


@pytest.fixture
def root(tmp_path):
    for stage in ("stage1", "stage2", "smoke"):
        write_json(create_run(tmp_path, stage).run_json, {"stage": stage})
    return tmp_path
