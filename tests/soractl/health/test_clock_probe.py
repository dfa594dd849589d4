import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soractl.health import clock_probe
from soractl.health.clock_watch import program

PROGRAM = Path(clock_probe.__file__).read_text()
WITHOUT_PYTHON = (*program()[:2], program()[2].replace("command -v python3", "false"), "sh", "")


@pytest.mark.parametrize(
    "argv", [(sys.executable, "-c", PROGRAM), WITHOUT_PYTHON], ids=["python3", "sh"]
)
def test_realtime_lies_between_two_readings_of_the_boot_clock(argv):
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    done = subprocess.run(argv, input="time\ndaemon\n", capture_output=True, text=True, check=True)
    ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    clocks, daemon = map(json.loads, done.stdout.splitlines())
    tick_ns = 10_000_000  # of /proc/uptime
    assert began[1] <= clocks["unix_ns"] <= ended[1]
    assert began[0] - tick_ns <= clocks["boot_before_ns"] < clocks["boot_after_ns"]
    assert clocks["boot_after_ns"] <= ended[0] + tick_ns
    assert daemon["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert isinstance(daemon["running"], list)


def test_what_chronyc_and_ntpq_printed_and_the_kernels_state_are_passed_on():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "tracking", "variables"],
        input="daemon\n",
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["chrony"], found["ntpq"]) == ("tracking", "variables")
    assert isinstance(found["kept"], bool)
    assert abs(found["frequency_ppm"]) <= 500  # the kernel's own limit, adjtimex(2)
