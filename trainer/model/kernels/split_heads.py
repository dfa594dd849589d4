"""A head's channels as two powers of two, such as 64 + 16 for 72: what Triton can multiply."""

import triton
import triton.language as tl

LOG2_E = 1.4426950408889634  # exponentials, and logarithms of their sums, have the base 2


def split(width: int) -> dict[str, int]:
    """The channels A and B of a head, together not many more than it has."""
    most = triton.next_power_of_2(width + 1) // 2
    return {"A": most, "B": max(16, triton.next_power_of_2(width - most))}


@triton.jit
def load(pointer, row, rows, step, width: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """Rows of both parts; zeros beyond `rows` and `width`."""
    first, last = tl.arange(0, A)[None, :], A + tl.arange(0, B)[None, :]
    inside, here = (row < rows)[:, None], pointer + row[:, None] * step
    return tl.load(here + first, inside, 0.0), tl.load(here + last, inside & (last < width), 0.0)


@triton.jit
def store(pointer, values, row, rows, step, width: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """The reverse of `load`."""
    first, last = tl.arange(0, A)[None, :], A + tl.arange(0, B)[None, :]
    inside, here = (row < rows)[:, None], pointer + row[:, None] * step
    tl.store(here + first, values[0], inside)
    tl.store(here + last, values[1], inside & (last < width))


@triton.jit
def products(a, b):
    """Of rows of a with rows of b."""
    found = tl.dot(a[0], tl.trans(b[0]), input_precision="ieee")
    return tl.dot(a[1], tl.trans(b[1]), found, input_precision="ieee")


@triton.jit
def add_weighted(sums, weights, x):
    """Sums [rows, channels] and weights [rows, rows of x] times x."""
    return (
        tl.dot(weights, x[0], sums[0], input_precision="ieee"),
        tl.dot(weights, x[1], sums[1], input_precision="ieee"),
    )
