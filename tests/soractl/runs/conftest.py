import os
import tempfile
from pathlib import Path

import pytest

from tests.missing import give_up
from tests.soractl.runs.users import NOBODY
from trainer.atomic_files import write_json
from trainer.run_dir import create_run


@pytest.fixture
def root(tmp_path):
    for stage in ("stage1", "stage2", "smoke"):
        write_json(create_run(tmp_path, stage).run_json, {"stage": stage})
    return tmp_path


@pytest.fixture
def roots_run():
    """A run of root that everybody may read."""
    if os.getuid() != 0:
        give_up("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        run = create_run(Path(folder), "smoke")
        run.new_attempt()
        run.run_json.write_text("{}")
        run.lock.touch(mode=0o600)
        yield run


@pytest.fixture
def as_nobody(roots_run):
    """This process as another user, while the test runs."""
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)
