"""A browser for tests of pages: Debian's Chromium, driven by Playwright."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium")
IN_A_BROWSER = [
    pytest.mark.slow,  # a browser starts
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: make system-packages"),
]
