"""The types of numbers that a config names."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
