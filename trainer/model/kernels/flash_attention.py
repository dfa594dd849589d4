"""Attention within frames by FlashAttention-4, where its package is installed.

Its kernels for Hopper GPUs (Dao et al., `flash-attn-4`, in CuTe) take the 72 channels of a head for
80 and run exponentials beside products. It is a beta: before it is used, its results are compared
with the library's, and whatever it raises, our own kernels take its place.
"""

import importlib.util
import logging
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger("trainer")

_TOLERANCE = 0.02  # of a norm; bf16 gives 0.003
_CHANNELS = 16  # multiples of which a head is taken for


class Disagrees(Exception):
    """Its results are not those of attention."""


@cache
def find() -> Any:
    """The package's module with its kernels; None where it is missing or not right."""
    try:
        if importlib.util.find_spec("flash_attn.cute") is None:
            return None
        from flash_attn.cute import interface

        _mend(interface)
        _compare(interface)
    except Exception as error:  # noqa: BLE001 - a beta, and there are other kernels
        if not isinstance(error, ModuleNotFoundError):
            log.warning("flash-attn-4 is not used: %s", str(error).partition("\n")[0])
        return None
    return interface


def forward(flash: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attended values like q, [frames, S, heads, width], and logarithms of sums."""
    found = flash._flash_attn_fwd(q, k, v, softmax_scale=q.shape[-1] ** -0.5, return_lse=True)
    return found[0], found[1]


def backward(flash: Any, grad_out: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of q, k and v; given are these, the attended values, and logarithms of sums."""
    q, k, v, out, lse = given
    scale = q.shape[-1] ** -0.5
    found = flash._flash_attn_bwd(q, k, v, out, grad_out, lse, softmax_scale=scale)
    return found[0], found[1], found[2]


def _mend(flash: Any) -> None:
    """Gradients of queries are summed up in rows of 80 channels, and read in rows of 96."""
    convert = flash._bwd_postprocess_convert

    def converted(*arguments: Any, **named: Any) -> Any:
        return convert(*arguments, **{**named, "hdim_multiple_of": _CHANNELS})

    vars(converted)["compile_cache"] = convert.compile_cache  # where the original looks for it
    flash._bwd_postprocess_convert = converted


def _compare(flash: Any) -> None:
    """Disagrees, or any error of its own, if it is not attention and its gradients."""
    draws = torch.Generator("cuda").manual_seed(0)
    given = [
        torch.randn(2, 200, 2, 72, device="cuda", generator=draws).bfloat16() for _ in range(4)
    ]
    *parts, grad = given
    out, lse = forward(flash, parts[0], parts[1], parts[2])
    found = (out, *backward(flash, grad, (*parts, out, lse)))
    with torch.enable_grad():
        exact = [part.float().transpose(1, 2).requires_grad_() for part in parts]
        attended = F.scaled_dot_product_attention(*exact)
        expected = (attended, *torch.autograd.grad(attended, exact, grad.float().transpose(1, 2)))
    for own, other in zip(found, expected, strict=True):
        error = (own.float() - other.transpose(1, 2)).norm() / other.norm()
        if not error < _TOLERANCE:
            raise Disagrees(f"its results are off by {error:.1%}")
