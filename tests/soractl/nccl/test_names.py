import pytest

from soractl.nccl.names import KNOWN, read_by, suggestion, unknown


def test_a_misspelt_name_of_nccl_is_unknown_and_others_are_not():
    names = ["NCCL_IB_HAC", "NCCL_DEBUG", "OMP_NUM_THREADS", "NCCL_QQQQ", "nccl_debug"]
    assert [name for name in names if unknown(name)] == ["NCCL_IB_HAC", "NCCL_QQQQ", "nccl_debug"]
    assert suggestion("NCCL_IB_HAC") == "; did you mean NCCL_IB_HCA?"
    assert suggestion("NCCL_QQQQ") == ""


@pytest.mark.parametrize(
    ("name", "older", "newer"),
    [
        ("NCCL_RAS_ENABLE", (2, 23), (2, 24)),
        ("NCCL_NETDEVS_POLICY", (2, 27), (2, 28)),
        ("NCCL_RUN_DIAGNOSTICS", (2, 30), (2, 31)),
    ],
)
def test_a_name_is_read_since_a_version(name, older, newer):
    assert not read_by(name, older)
    assert read_by(name, newer)


def test_a_name_is_read_until_a_version():
    assert read_by("NCCL_WORK_FIFO_DEPTH", (2, 21))
    assert not read_by("NCCL_WORK_FIFO_DEPTH", (2, 23))


def test_names_of_plugins_are_known():
    names = ["NCCL_GPUDIRECTTCPX_CTRL_DEV", "NCCL_INSPECTOR_ENABLE"]
    assert [name for name in names if unknown(name)] == []


def test_no_name_stands_there_twice():
    assert len(set(KNOWN)) == len(KNOWN)
