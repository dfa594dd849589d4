import pytest

from soractl.nccl.names import SINCE, TORCH_NAMES
from soractl.nccl.values import _KINDS, _SWITCHES, kind_of


def test_kinds_are_of_names_that_are_read():
    names = [f"NCCL_{name}" for name in _SWITCHES.split()] + list(_KINDS)
    others = {"TORCH_DISTRIBUTED_DEBUG", "TORCH_FR_BUFFER_SIZE", "OMP_NUM_THREADS"}
    known = {*SINCE, *TORCH_NAMES, *others, "CUDA_DEVICE_MAX_CONNECTIONS"}
    assert set(names) - known == set()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NCCL_P2P_DISABLE", "0 or 1"),
        ("CUDA_LAUNCH_BLOCKING", "0 or 1"),
        ("NCCL_IB_RETRY_CNT", "a number from 0 to 7"),
        ("NCCL_BUFFSIZE", "a number that fits"),
    ],
)
def test_a_number_is_described(name, text):
    assert kind_of(name).text == text


def test_any_value_of_a_setting_without_a_kind_will_do():
    assert kind_of("NCCL_NET_PLUGIN") is None
