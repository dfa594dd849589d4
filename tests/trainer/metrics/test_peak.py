import pytest
import torch

from trainer.metrics.peak import peak_flops, peak_of


@pytest.mark.parametrize(
    ("gpu", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_a_gpus_peak_is_known_by_its_name(gpu, tflops):
    assert peak_flops(gpu) == tflops * 1e12


def test_other_devices_have_no_peak():
    assert peak_flops("NVIDIA RTX A4000") is None
    assert peak_of(torch.device("cpu"), torch.bfloat16) is None
    assert peak_of(torch.device("cuda"), torch.float32) is None
