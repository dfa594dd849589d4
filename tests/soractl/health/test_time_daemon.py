import os
import shutil
import subprocess

import pytest

from soractl.health.time_daemon import TimeDaemon, chrony_lines, follower, leader, parse

TRACKING = "0A000001,10.0.0.1,3,1795437443.796126462,0.000012,-0.00003,0.00004,-1.2,0.0,0.1,0.001,"
# chrony 4.3 before its first update, recorded.
UNSYNCHRONISED = (
    "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,"
    "1.000000000,1.000000000,0.0,Not synchronised"
)
CASES = {
    "nobody": ({"running": []}, TimeDaemon(), "no time daemon"),
    "chrony": (
        {"running": ["chronyd"], "chrony": TRACKING + "0.002,64.0,Normal", "kept": True},
        TimeDaemon(("chrony",), kept=True, source="10.0.0.1", stratum=3),
        "chrony from 10.0.0.1",
    ),
    "chrony without a source": (
        {"running": ["chronyd"], "chrony": UNSYNCHRONISED, "kept": False},
        TimeDaemon(("chrony",), kept=False),
        "chrony, not synchronised",
    ),
    "chrony that does not answer": (
        {"running": ["chronyd"], "chrony": "506 Cannot talk to daemon", "kept": True},
        TimeDaemon(("chrony",), kept=True),
        "chrony",
    ),
    "ntpd": (
        {"running": ["ntpd"], "ntpq": "stratum=2, refid=10.0.0.1, offset=0.021", "kept": True},
        TimeDaemon(("ntpd",), kept=True, source="10.0.0.1", stratum=2),
        "ntpd from 10.0.0.1",
    ),
    "timesyncd": (
        {"running": ["systemd-timesyn"], "kept": True, "error_us": 2500, "frequency_ppm": -1.5},
        TimeDaemon(("timesyncd",), kept=True, frequency_ppm=-1.5, error_s=0.0025),
        "timesyncd",
    ),
    "PTP": (
        {"running": ["phc2sys", "ptp4l"], "kept": False},
        TimeDaemon(("PTP",), kept=False),
        "PTP, not synchronised",
    ),
    "a node without python3": (
        {"boot_id": "x", "running": ["ntpd"]},
        TimeDaemon(("ntpd",)),
        "ntpd",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_keeps_a_clock(name):
    found, daemon, text = CASES[name]
    assert parse(found) == daemon
    assert parse(found).text == text


def test_chronyd_parses_the_settings(tmp_path):
    chronyd = os.environ.get("CHRONYD") or shutil.which("chronyd", path="/usr/sbin:/usr/bin")
    if chronyd is None:
        pytest.skip("chrony is not installed; CHRONYD names another place")
    for number, lines in enumerate((follower("node-001"), leader())):
        file = tmp_path / f"{number}.conf"
        file.write_text("\n".join(lines) + "\n")
        done = subprocess.run([chronyd, "-p", "-f", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == list(lines)


def test_the_settings_stand_below_the_machines_they_are_for():
    lines = chrony_lines("head", "n[2-3]")
    assert [line for line in lines if not line.startswith(" ")] == [
        "on n[2-3], in /etc/chrony/chrony.conf in place of the pool and server lines:",
        "on head, beside the pool or server lines that are there:",
    ]
    assert "  server head iburst minpoll 3 maxpoll 6" in lines
