"""Availability of our Triton kernels: a GPU, and a compiler for Triton, which torch brings."""

import os
import shutil

import torch
from torch import Tensor

COMPILER = os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")  # Triton's choice
KERNELS = torch.cuda.is_available() and COMPILER is not None


def has_kernels(x: Tensor) -> bool:
    """True if the kernels here take x; torch's compiler makes its own."""
    return KERNELS and x.is_cuda and not torch.compiler.is_compiling()
