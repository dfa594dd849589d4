import pytest

from tests.soractl.data.odd_files import write_odd_files


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd_files(tmp_path_factory.mktemp("clips") / "odd")
