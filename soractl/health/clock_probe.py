"""Clock of one node, a line of JSON for each line on stdin; runs there, imports nothing of ours.

Stdin `time`: realtime between two readings of the boot clock, and the raw clock, in ns. Stdin
`daemon`: time daemons that run, what chronyc and ntpq printed (its arguments), and the kernel's own
state (adjtimex). The program ends with its stdin.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

DAEMONS = ("chronyd", "ntpd", "ntpsec", "openntpd", "systemd-timesyn", "ptp4l", "phc2sys")


class Timex(ctypes.Structure):
    """The kernel's `struct timex`, adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def main() -> None:
    """Answers until stdin ends."""
    answers = {b"time": read_time, b"daemon": read_daemon}
    for line in iter(sys.stdin.buffer.readline, b""):
        os.write(1, json.dumps(answers[line.strip()]()).encode() + b"\n")


def read_time() -> dict[str, int]:
    """Realtime and the clocks that no step moves."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    unix = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    raw = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    return {"unix_ns": unix, "boot_before_ns": before, "boot_after_ns": after, "raw_ns": raw}


def read_daemon() -> dict[str, Any]:
    """The daemon that keeps the node's clock."""
    found = {"boot_id": read(Path("/proc/sys/kernel/random/boot_id")), "running": running()}
    return found | dict(zip(("chrony", "ntpq"), sys.argv[1:], strict=False)) | kernel()


def running() -> list[str]:
    """Names of the time daemons among the processes."""
    names = {read(file) for file in Path("/proc").glob("[0-9]*/comm")}
    return sorted(names & {*DAEMONS})


def kernel() -> dict[str, Any]:
    """The kernel's word on its clock: kept or not, its error in us, its frequency in ppm."""
    state = Timex()
    code = ctypes.CDLL(None).adjtimex(ctypes.byref(state))
    if code < 0:
        return {}
    return {
        "kept": not state.status & 0x40,  # STA_UNSYNC
        "error_us": state.maxerror,
        "frequency_ppm": state.freq / 65536,
    }


def read(file: Path) -> str:
    """A small file's text, empty where it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
