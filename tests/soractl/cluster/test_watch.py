import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soractl.cluster.watch import watch_gpus


def test_gpus_of_this_machine_are_shown_without_a_hostfile(workplace):
    done = workplace.soractl("gpus")
    assert done.stdout.startswith("NODE ")
    assert done.stderr.startswith("this machine: ")


def test_a_watch_keeps_its_connections(workplace, sshd):
    workplace.write("one.txt", f"{sshd.host}:{sshd.port}\n")
    options = "".join(
        f'{name} = "{getattr(sshd.options, name)}"\n'
        for name in ("config_file", "known_hosts_file", "identity_file")
    )
    workplace.write("one.toml", f"[ssh]\n{options}")
    before = (sshd.folder / "log").read_text().count("Accepted publickey")
    looks = watch_gpus("one.txt", 0.01, deadline_s=10, environ={})
    assert [len(look.rows) for look in itertools.islice(looks, 3)] == [1, 1, 1]
    assert (sshd.folder / "log").read_text().count("Accepted publickey") == before + 1


@pytest.mark.parametrize("arguments", [[], ["--watch", "0.1"]])
def test_ctrl_c_during_a_look_ends_the_command(workplace, arguments):
    workplace.write("one.txt", "localhost\n")
    slow = workplace.write("bin/nvidia-smi", "#!/bin/sh\ntouch looking\nsleep 30\n")
    slow.chmod(0o755)
    command = subprocess.Popen(
        [sys.executable, "-m", "soractl.cli", "gpus", "one.txt", "--timeout", "20", *arguments],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent.parent.parent.parent),
            "PATH": f"{workplace.bin}:{os.environ['PATH']}",
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 15
    while not (workplace.folder / "looking").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    stdout, _ = command.communicate(timeout=10)
    assert (stdout.splitlines()[-1].split()[-1], command.returncode) == ("interrupted", 130)
