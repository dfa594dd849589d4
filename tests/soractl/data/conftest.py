import pytest

from tests.soractl.data.seven_clips import ROWS, WHOLE


@pytest.fixture
def table(workplace):
    return workplace.write("in.csv", f"{WHOLE}\n{ROWS}")
