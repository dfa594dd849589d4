"""Imports of libraries without their notices about parts that are not used here.

Those are apex, tensornvme and 4-bit weights; ColossalAI and diffusers look for them.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Import in this block; bitsandbytes says nothing later either, but for errors."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
