"""Attention with one wide head, as two matrix products and a softmax between them.

The library's fast kernels take at most 256 channels of a head; a VAE's middle block has 512.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_MOST_SCORES = 2**28  # in memory at once, in fp32 and again in the type of q


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries [B, Q, C] over keys and values [B, K, C], to a tensor like q; no gradient."""
    keys = k.shape[1]
    k, v = (F.pad(part, (0, 0, 0, -keys % 8)) for part in (k, v))  # what products need to be fast
    rows = max(1, _MOST_SCORES // (len(q) * k.shape[1]))
    return torch.cat([_attend(part, k, v, keys) for part in q.split(rows, dim=1)], dim=1)


def _attend(q: Tensor, k: Tensor, v: Tensor, keys: int) -> Tensor:
    scores = torch.bmm(q, k.mT, out_dtype=torch.float32)
    weights = torch.empty_like(scores, dtype=q.dtype)
    columns = scores.shape[-1]
    block = triton.next_power_of_2(columns)
    _softmax[(scores[..., 0].numel(),)](
        scores, weights, q.shape[-1] ** -0.5, keys, columns,
        K=block, num_warps=min(32, max(4, block // 1024)),
    )  # fmt: skip
    return torch.bmm(weights, v)


@triton.jit(do_not_specialize=["keys"])
def _softmax(scores, weights, factor, keys, columns, K: tl.constexpr):
    """Of the first `keys` of a row's scores; the others' weight is 0."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, K)
    value = tl.load(scores + row * columns + column, column < keys, float("-inf")) * factor
    weight = tl.exp(value - tl.max(value, 0))
    tl.store(weights + row * columns + column, weight / tl.sum(weight, 0), column < columns)
