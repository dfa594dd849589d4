"""To wait for what a process of a test does, and to fail when it does not."""

import time


def wait_for(condition, seconds=120):
    """Return what the condition gives, once that is true."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return result
