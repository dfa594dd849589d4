"""Peak FLOP/s of GPUs by name."""

import re

import torch

# Dense bf16 TFLOP/s of the manufacturers' data sheets; the first name that fits counts.
_PEAK_TFLOPS = {
    "B300": 2250,
    "GB200": 2500,
    "B200": 2250,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "GH200": 989,
    "H200": 989,
    "H800": 989,
    "H20": 148,
    "A100": 312,
    "A800": 312,
    "A40": 150,
    "A30": 165,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


def peak_flops(gpu: str) -> float | None:
    """FLOP/s in bf16 of a GPU, by the name that its driver says; None if it is not known."""
    fits = (name for name in _PEAK_TFLOPS if re.search(rf"\b{name}\b", gpu))
    name = next(fits, None)
    return _PEAK_TFLOPS[name] * 1e12 if name else None


def peak_of(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of a device; None for a CPU, or for numbers that are not bf16."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    return peak_flops(torch.cuda.get_device_name(device))
