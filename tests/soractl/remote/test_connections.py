import subprocess
import sys

from soractl.remote.connections import Connections
from soractl.remote.nodes import this_machine
from soractl.remote.requests import Request

HERE = this_machine()


def test_the_local_node_needs_no_ssh():
    with Connections() as remote:
        result = remote(HERE, Request(("sh", "-c", "cat; echo wrong >&2; exit 3"), "input\n"), 5)
    assert (result.stdout, result.stderr, result.exit_code) == ("input\n", "wrong\n", 3)


def test_starting_without_ssh_does_not_load_paramiko():
    loaded = "soractl.remote.connections, soractl.cluster.gpus, soractl.processes.scan"
    code = f"import sys, {loaded}; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'paramiko'" not in done.stdout
