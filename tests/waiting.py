"""To wait for what a process of a test does, and to fail when it does not."""

import time


def wait_for(condition, seconds=120):
    """Return when the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
