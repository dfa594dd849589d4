"""Processes of a run, made up and real."""

import getpass
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

from soractl.processes.selection import Process
from soractl.processes.stop import stop
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine

HERE = this_machine()
ME = getpass.getuser()
NODE = Node("n1")


def process(pid, ppid, command, **changes):
    values = {"sid": pid, "user": "me", "run_id": None, "rank": None, "state": "S", "started": pid}
    return Process(node=NODE, pid=pid, ppid=ppid, command=command, **(values | changes))


PROGRAM = """
import os, signal, subprocess, sys, time
name = sys.argv[1]
def rank(signum, frame):
    open(sys.argv[2], "a").write("term\\n")
    os._exit(0)
if "stubborn" in name:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif "saves" in name:
    signal.signal(signal.SIGTERM, rank)
worker = subprocess.Popen(["sleep", "4720"], start_new_session="torchrun" not in name)
stripped = subprocess.Popen(["sleep", "4721"], env={"PATH": os.environ["PATH"]})
print(worker.pid, stripped.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def running(tmp_path, run_id, name="rank"):
    """A process of a run with two children, one of which lost its environment."""
    environ = {**os.environ, "SORACTL_RUN_ID": run_id, "RANK": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, name, str(tmp_path / "term")],
        env=environ,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        children = [int(pid) for pid in process.stdout.readline().split()]
        try:
            yield process
        finally:
            process.kill()
            for child in children:
                with suppress(ProcessLookupError):  # the test has ended it
                    os.kill(child, signal.SIGKILL)


def stop_here(which, grace_s):
    with Connections() as remote:
        [result] = stop([HERE], remote, which, grace_s=grace_s)
    return result
