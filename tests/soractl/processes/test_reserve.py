"""Reservations by the program that nodes run, in real sessions."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from soractl.processes.reservation import Reservation
from soractl.processes.reserve import gpu_places, numbers
from tests.waiting import wait_for

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SINCE = r"since \d\d:\d\d"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """This machine with four GPUs; sessions that were started end with the test."""
    locks, programs = tmp_path / "locks", tmp_path / "bin"
    for folder in (locks, programs):
        folder.mkdir()
    locks.chmod(0o1777)
    monkeypatch.setenv("SORACTL_LOCKS", str(locks))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    smi = programs / "nvidia-smi"
    smi.write_text("#!/bin/sh\nfor i in 0 1 2 3; do echo $i, GPU-aa0$i; done\n")
    smi.chmod(0o755)
    node = Node(tmp_path)
    yield node
    node.end()


class Node:
    def __init__(self, folder):
        self.folder, self.locks, self.runs = folder, folder / "locks", {}

    def reservation(self, name, **values):
        run = f"{self.folder}/runs/{name}"
        self.runs[name] = run
        return Reservation(**{"run": run, "attempt": 1, "ranks": 2, **values})

    def start(self, name, code="sleep 60", **values):
        """The sentence of a refusal, or None for a session that runs."""
        script = self.folder / f"{name}.sh"
        script.write_text(f"{code}\n")
        return self.do(self.reservation(name, **values).start(os.environ["PATH"], str(script)))

    def look(self, name, **values):
        return self.do(self.reservation(name, **values).look(os.environ["PATH"]))

    def do(self, program, user=()):
        argv = [*user, "sh", "-s"]
        done = subprocess.run(argv, input=program, capture_output=True, text=True, timeout=30)
        assert done.returncode == (1 if done.stderr else 0), done
        return done.stderr.strip() or None

    def processes(self, name):
        mark = f"SORACTL_RUN_ID={self.runs[name]}"
        pattern = ["grep", "-lzxF", mark]
        environs = Path("/proc").glob("[0-9]*/environ")
        found = subprocess.run([*pattern, *environs], capture_output=True, text=True).stdout
        return sorted(int(path.split("/")[2]) for path in found.split())

    def end(self, *names):
        for name in names or self.runs:
            for pid in self.processes(name):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda name=name: not self.processes(name))


def used(places, name, user="root"):
    return re.compile(rf"error: {places} used by {name} of {user} {SINCE}")


def test_what_a_run_uses_is_refused_to_the_next_until_it_has_ended(node):
    assert node.start("001-smoke", port=29500) is None
    sentence = used("GPUs 0-1 and port 29500 are", "001-smoke")
    assert sentence.fullmatch(node.start("002-smoke", port=29500))
    assert sentence.fullmatch(node.look("002-smoke", port=29500))
    assert used("GPU 1 is", "001-smoke").fullmatch(node.look("002-smoke", gpus=("1", "2")))
    assert not node.processes("002-smoke")
    node.end("001-smoke")
    assert node.start("002-smoke", port=29500) is None


def test_runs_on_other_gpus_and_ports_go_on_side_by_side(node):
    assert node.start("001-smoke", port=29500) is None
    assert node.start("002-smoke", port=29501, gpus=("2", "GPU-aa03")) is None
    assert len(node.processes("001-smoke")) == len(node.processes("002-smoke")) == 2


def test_a_look_reserves_nothing(node):
    assert [node.look("001-smoke", port=1), node.look("002-smoke", port=1)] == [None, None]


def test_without_gpus_ranks_have_slots(node):
    (node.folder / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    slots = max(16, os.cpu_count())
    assert node.start("001-smoke", ranks=slots - 2) is None
    assert node.start("002-smoke", ranks=2) is None
    refused = node.start("003-smoke", ranks=2)
    first, second = refused.removeprefix("error: ").split("; ")
    assert first.startswith(f"rank slots 0-{slots - 3} are used by 001-smoke of ")
    assert second.startswith(f"rank slots {slots - 2}-{slots - 1} are used by 002-smoke of ")


def test_a_lock_may_die_before_the_ranks(node):
    # The rank has lost the locks, as programs do that close what they inherit.
    closed = " ".join(f"{number}>&-" for number in range(3, 10))
    assert node.start("001-smoke", f"sleep 60 {closed} & wait") is None
    wait_for(lambda: len(node.processes("001-smoke")) == 2)
    session, rank = node.processes("001-smoke")
    os.kill(session, signal.SIGKILL)
    wait_for(lambda: node.processes("001-smoke") == [rank])
    assert used("GPUs 0-1 are", "001-smoke").fullmatch(node.start("002-smoke"))
    os.kill(rank, signal.SIGKILL)
    wait_for(lambda: not node.processes("001-smoke"))
    assert node.start("002-smoke") is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_users_places_are_refused_and_free_when_that_run_has_ended(node):
    for folder in (node.folder, *node.folder.parents[:3]):
        folder.chmod(0o755)
    program = node.reservation("002-smoke").start(os.environ["PATH"], "/dev/null")
    look = node.reservation("002-smoke").look(os.environ["PATH"])
    assert node.start("001-smoke") is None
    assert used("GPUs 0-1 are", "001-smoke").fullmatch(node.do(look, NOBODY))
    node.end("001-smoke")
    assert node.do(program, NOBODY) is None
    assert {(file.stat().st_uid, file.stat().st_mode & 0o777) for file in node.locks.iterdir()} == {
        (0, 0o666)
    }


def test_nothing_in_a_lock_file_is_trusted(node):
    node.start("001-smoke")
    [file] = node.locks.glob("soractl-gpu-GPU-aa00")
    for text in ("", "[]", '{"run": 7}', "\0" * 99):
        file.write_text(text)
        assert node.look("002-smoke", ranks=1) == "error: GPU 0 is used by another process"
    file.write_text('{"run": "/r/\\u001b[2Jx\\n", "user": {"a": 1}, "since_unix_s": "never"}')
    assert node.look("002-smoke", ranks=1) == "error: GPU 0 is used by [2Jx of {'a': 1}"


def test_a_link_in_the_place_of_a_lock_is_not_followed(node):
    (node.locks / "soractl-port-29500").symlink_to(node.folder / "elsewhere")
    refused = node.start("001-smoke", port=29500)
    assert refused.startswith(f"error: no GPU, slot or port can be reserved in {node.locks}: ")
    assert not (node.folder / "elsewhere").exists()


def test_a_full_disk_of_locks_refuses_the_start_with_its_reason(node, small_disk, monkeypatch):
    folder = small_disk("64k")
    monkeypatch.setenv("SORACTL_LOCKS", str(folder))
    subprocess.run(["sh", "-c", f"cat /dev/zero > {folder}/all"], capture_output=True)
    assert node.start("001-smoke") == (
        f"error: no GPU, slot or port can be reserved in {folder}: No space left on device"
    )
    assert not node.processes("001-smoke")


@pytest.mark.parametrize(
    ("chosen", "places"),
    [
        (("0", "1"), {"gpu-GPU-ab1": "0", "gpu-GPU-cd2": "1"}),
        (("GPU-c",), {"gpu-GPU-cd2": "1"}),
        (("GPU-",), {"gpu-GPU-": "GPU-"}),  # means two of them
        (("MIG-1/2/../3",), {"gpu-MIG-1_2____3": "MIG-1/2/../3"}),
        (("7",), {"gpu-7": "7"}),
    ],
)
def test_chosen_gpus_become_places_by_their_uuid(chosen, places):
    assert gpu_places(chosen, {"0": "GPU-ab1", "1": "GPU-cd2"}) == places


def test_indices_fold():
    assert [numbers(list(text)) for text in ("0123", "035", "7", "01457")] == [
        *("0-3", "0,3,5", "7", "0-1,4-5,7"),
    ]
