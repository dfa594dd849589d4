import shutil
from pathlib import Path

import pytest

from tests.soractl.clips.conftest import odd  # noqa: F401 - a fixture
from tests.soractl.data.seven_clips import ROWS, WHOLE

REPOSITORY = Path(__file__).parent.parent.parent.parent
SMALL = """\
extends = ["base", "tiny"]
epochs = 1
[balance]
window = 4
[buckets]
frames = [1, 17]
[buckets.batch_size]
144p = [2, 2]
240p = [1]
[buckets.keep]
144p = [1.0, 1.0]
240p = [0.0]
"""


@pytest.fixture
def table(workplace):
    return workplace.write("in.csv", f"{WHOLE}\n{ROWS}")


@pytest.fixture
def stage(workplace):
    """A workplace with our stages, and a small one."""
    shutil.copytree(REPOSITORY / "configs", workplace.folder / "configs", dirs_exist_ok=True)
    workplace.write("configs/small.toml", SMALL)
    return workplace
