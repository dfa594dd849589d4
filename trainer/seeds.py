"""Random draws that depend on what they are for, not on what was drawn before."""

import hashlib


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key such as (seed, epoch, "window", row), equal on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
