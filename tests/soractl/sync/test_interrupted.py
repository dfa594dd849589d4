import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from soractl.sync.rsync import PARTIAL
from tests.soractl.sync.copying import (
    COPIED,
    SLOW_BYTES,
    SLOW_KIB_PER_S,
    Lab,
    assert_copied,
    incoming,
    names,
)
from tests.waiting import wait_for
from trainer.checkpoint_dir import Checkpoint, read_checkpoint
from trainer.run_dir import RunDir


def test_the_source_is_marked_as_read_while_it_is_copied(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    checkpoint = save_weights(run, 5, SLOW_BYTES)
    process = lab.start("--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: incoming(lab.copy_of(run)))
    [reader] = checkpoint.readers()
    assert reader.startswith(f"sync-{socket.gethostname()}-")
    process.communicate()
    assert (process.returncode, checkpoint.readers()) == (0, [])


@pytest.mark.parametrize("push", [False, True])
def test_a_checkpoint_that_the_source_removes_meanwhile_is_left_out(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    endpoints = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    first = save_weights(run, 5, 4 * SLOW_BYTES)
    save_weights(run, 6)
    process = lab.start("latest", *endpoints, "--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: incoming(copy))
    shutil.rmtree(first.path)
    stdout, _ = process.communicate()
    assert "epoch0-global_step5 was removed at the source meanwhile" in stdout
    assert (process.returncode, names(copy)) == (0, ["epoch0-global_step6"])
    lab.sync("latest", *endpoints)
    assert incoming(copy) == {}


@pytest.mark.parametrize("push", [False, True])
def test_two_syncs_never_write_the_same_run_at_once(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    endpoints = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    save_weights(run, 5, 10 * SLOW_BYTES)
    first = lab.start("latest", *endpoints, "--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: incoming(copy))
    _, stderr = lab.sync("latest", *endpoints, code=5)
    assert "error: another sync of this run is at work on " in stderr
    first.send_signal(signal.SIGINT)
    first.communicate()
    lab.sync("latest", *endpoints)
    assert_copied(run, copy)


def test_ctrl_c_keeps_what_came_and_the_next_sync_goes_on_from_there(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5, 4 * SLOW_BYTES)
    process = lab.start("--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: sum(incoming(lab.copy_of(run)).values()) > 1_500_000)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted; the next sync goes on from here"
    [size] = [size for name, size in incoming(lab.copy_of(run)).items() if PARTIAL in name]
    assert size > 500_000
    [_, again] = json.loads(lab.sync("--dry-run", "--json")[0])["commands"]
    stats = subprocess.run([*again, "--stats"], capture_output=True, text=True, check=True).stdout
    matched = int(re.search(r"Matched data: ([0-9]+)", stats)[1])
    assert size - 10_000 < matched <= size
    lab.sync()
    assert_copied(run, lab.copy_of(run))
    assert not list(lab.copy_of(run).path.rglob(PARTIAL))


class Forwarder:
    """A network between here and an sshd that can be cut."""

    def __init__(self, server):
        self._target = (server.host, server.port)
        self._listener = socket.create_server(("127.0.77.9", 0))
        self.port = self._listener.getsockname()[1]
        self.up = True
        self._sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        self.up = False
        for end in self._sockets:
            with contextlib.suppress(OSError):  # it is just being closed
                end.shutdown(socket.SHUT_RDWR)
        self._sockets = []

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            if not self.up:
                ours.close()
                continue
            theirs = socket.create_connection(self._target)
            self._sockets += [ours, theirs]
            for pair in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, sink):
        try:
            while chunk := source.recv(2**16):
                sink.sendall(chunk)
        except OSError:
            pass
        for end in (source, sink):
            end.close()


@pytest.fixture
def network(sshd):
    forwarder = Forwarder(sshd)
    yield forwarder
    forwarder.close()


@pytest.fixture
def far_lab(tmp_path, sshd, network):
    key = (sshd.folder / "known_hosts").read_text().split(" ", 1)[1]
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.77.9]:{network.port} {key}")
    lab = Lab(tmp_path, replace(sshd, host="127.0.77.9", port=network.port))
    lab.reach(replace(sshd.options, known_hosts_file=str(known)))
    return lab


def test_a_lost_network_is_exit_code_4_and_loses_nothing(far_lab, network, save_weights):
    run = far_lab.run_at(far_lab.there / "runs")
    save_weights(run, 5, 4 * SLOW_BYTES)
    process = far_lab.start("--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: sum(incoming(far_lab.copy_of(run)).values()) > 1_000_000)
    network.cut()
    _, stderr = process.communicate()
    assert process.returncode == 4, stderr
    assert stderr.splitlines()[-1].startswith("error: 127.0.77.9: unreachable: ")
    assert names(far_lab.copy_of(run)) == []
    assert [name for name in incoming(far_lab.copy_of(run)) if PARTIAL in name]
    far_lab.sync(code=4)
    network.up = True
    far_lab.sync()
    assert_copied(run, far_lab.copy_of(run))


def test_watching_outlives_a_lost_network(far_lab, network, save_weights):
    run = far_lab.run_at(far_lab.there / "runs")
    copy = far_lab.copy_of(run)
    save_weights(run, 5)
    process = far_lab.start("--watch", "0.2")
    wait_for(lambda: names(copy) == ["epoch0-global_step5"])
    network.cut()
    save_weights(run, 6)
    lines = iter(process.stderr.readline, "")
    assert any("; trying again in 0.2 s" in line for line in lines)
    assert names(copy) == ["epoch0-global_step5"]
    network.up = True
    wait_for(lambda: names(copy) == ["epoch0-global_step5", "epoch0-global_step6"])
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert_copied(run, copy)


class Watcher(threading.Thread):
    """Looks all the time whether an incomplete folder stands under a final name."""

    def __init__(self, run):
        super().__init__(daemon=True)
        self._copy, self._lock, self._over = run, threading.Lock(), threading.Event()
        self.looks, self.faults = 0, []

    def run(self):
        while not self._over.wait(0.002):
            with self._lock:
                folders = list(self._copy.checkpoints_folder.glob("epoch*"))
                found = [read_checkpoint(folder) for folder in folders]
                self.faults += [one for one in found if not isinstance(one, Checkpoint)]
                self.looks += 1

    def forget(self, folder):
        with self._lock:
            shutil.rmtree(folder)

    def stop(self):
        self._over.set()
        self.join()


def children_of(pid):
    """The processes below one, whatever their session."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in parents.get(parent, [])]
        found += new
    return found


def kill_at_random(lab, run, copy, endpoints, *, rounds, seed):
    """Syncs killed at random moments, alone or with all that they started; whole copies made."""
    random_of = random.Random(seed)
    watcher = Watcher(copy)
    watcher.start()
    whole = 0
    for _ in range(rounds):
        process = lab.start("latest", *endpoints, "--bwlimit", "20000")
        time.sleep(random_of.uniform(0.2, 1.2))
        victims = [process.pid]
        if random_of.random() < 0.5:
            victims += children_of(process.pid)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()
        if names(copy) == names(run):
            assert_copied_bytes(run, copy)
            whole += 1
            watcher.forget(copy.path)
    lab.sync("latest", *endpoints)
    watcher.stop()
    assert watcher.faults == []
    assert watcher.looks > rounds
    assert_copied(run, copy)
    return whole


def assert_copied_bytes(run, copy):
    for ours, theirs in zip(run.checkpoints(), copy.checkpoints(), strict=True):
        for name in COPIED:
            assert (theirs.path / name).read_bytes() == (ours.path / name).read_bytes()


@pytest.mark.parametrize(
    ("push", "rounds"),
    [
        (False, 10),
        (True, 10),
        pytest.param(False, 100, marks=pytest.mark.slow),
        pytest.param(True, 100, marks=pytest.mark.slow),
    ],
)
def test_a_sync_may_be_killed_at_any_moment(lab, save_weights, push, rounds):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    endpoints = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    for step in (1, 2, 3):
        save_weights(run, step, 3_000_000)
    assert kill_at_random(lab, run, copy, endpoints, rounds=rounds, seed=rounds) < rounds
