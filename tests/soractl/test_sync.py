import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from soractl.checkpoints import Rule, prune, verify
from soractl.errors import SoractlError
from soractl.nodes import Node
from soractl.places import Place, Seen, There, incoming_path, parse_look, parse_place
from soractl.remote import NodeResult
from soractl.rsync import PARTIAL, bytes_so_far
from soractl.ssh_config import SshOptions
from soractl.start_point import for_resume
from soractl.sync_plan import Way, Wishes, find_way, plan
from trainer.run_dir import Checkpoint, RunDir, create_run, read_checkpoint, write_json

REPOSITORY = Path(__file__).parent.parent.parent
COPIED = ["ema/model.safetensors", "model/index.json", "model/model 1.safetensors"]
SLOW_BYTES, SLOW_KIB_PER_S = 6_000_000, 3000  # two seconds a checkpoint


class Lab:
    """A working folder here and, with spaces in its name, one on the node that sshd stands for."""

    def __init__(self, folder, server):
        self.here, self.there = folder / "here", folder / "over there"
        self.node = f"{server.host}:{server.port}"
        (self.here / "hostfiles").mkdir(parents=True)
        self.there.mkdir()
        (self.here / "hostfiles/nodes.txt").write_text(f"{self.node}\n")
        self.reach(server.options)

    def reach(self, options):
        ssh = [f"{name} = {json.dumps(value)}" for name, value in asdict(options).items() if value]
        lines = [f'workdir = "{self.there}"', "[ssh]", *ssh]
        (self.here / "hostfiles/nodes.toml").write_text("\n".join(lines))

    def run_at(self, root, stage="stage1"):
        run = create_run(root, stage)
        write_json(run.run_json, {"stage": stage})
        write_json(run.config_json, {"checkpoint": {"keep_last": 2, "keep_every_steps": 0}})
        run.metrics.write_text('{"global_step": 1}\n')
        return run

    def copy_of(self, run):
        return RunDir(self.here / "runs" / run.name)

    def start(self, *arguments, prefix=()):
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "soractl.cli", "sync", *arguments],
            cwd=self.here,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def sync(self, *arguments, code=0, prefix=()):
        process = self.start(*arguments, prefix=prefix)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == code, stdout + stderr
        return stdout, stderr


@pytest.fixture
def lab(tmp_path, sshd):
    return Lab(tmp_path, sshd)


def names(run):
    return [checkpoint.name for checkpoint in run.checkpoints()]


def files_of(checkpoint):
    files = (file for file in checkpoint.path.rglob("*") if file.is_file())
    return {str(file.relative_to(checkpoint.path)): file.read_bytes() for file in files}


def assert_copied(run, copy, parts=("model", "ema")):
    """Every checkpoint of a run, in these parts and no others, byte for byte."""
    assert names(copy) == names(run)
    for ours, theirs in zip(run.checkpoints(), copy.checkpoints(), strict=True):
        wanted = {
            name: content
            for name, content in files_of(ours).items()
            if name.partition("/")[0] in parts
        }
        copied = files_of(theirs)
        del copied["checkpoint.json"]
        assert copied == wanted
    assert [path.name for path in copy.checkpoints_folder.glob(".*")] in ([".sync.lock"], [])


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def incoming(copy):
    """What lies in incoming folders: path below `checkpoints` and bytes."""
    found = (file for file in copy.checkpoints_folder.glob(".incoming-*/**/*") if file.is_file())
    return {str(file.relative_to(copy.checkpoints_folder)): file.stat().st_size for file in found}


HERE = Node("here", local=True)


@pytest.mark.parametrize(
    ("words", "node", "folder"),
    [
        ("node-1:/data/runs", Node("node-1"), "/data/runs"),
        ("me@node-1:2222:runs", Node("node-1", user="me", port=2222), "runs"),
        ("node-1:~/a b", Node("node-1"), "a b"),
        ("node-1:", Node("node-1"), "."),
        ("localhost:/data", HERE, "/data"),
        ("/a/b:c", HERE, "/a/b:c"),
        ("./b:c", HERE, "{cwd}/b:c"),
        ("backup", HERE, "{cwd}/backup"),
    ],
)
def test_a_place_is_written_as_rsync_writes_it(words, node, folder):
    assert parse_place(words, HERE) == Place(node, Path(folder.format(cwd=Path.cwd())))


@pytest.mark.parametrize(
    ("wishes", "source", "destination"),
    [
        (Wishes(), "head:/shared/runs", "runs"),
        (Wishes(source="other:/x"), "other:/x", "runs"),
        (Wishes(destination="other:/x"), "runs", "other:/x"),
        (Wishes(hostfile="nodes.txt", destination="kept"), "head:/shared/runs", "kept"),
        (Wishes(source="a", destination="b"), "a", "b"),
    ],
)
def test_the_two_ends_follow_from_what_is_said(workplace, wishes, source, destination):
    workplace.write("hostfiles/nodes.txt", "head\nnode-2\n")
    workplace.write("hostfiles/nodes.toml", 'workdir = "/shared"\n[ssh]\nuser = "cluster"\n')
    way = find_way(wishes, {})
    told = [str(end).removeprefix(f"{workplace.folder}/") for end in (way.source, way.destination)]
    assert told == [source, destination]
    assert way.ssh.user == ("cluster" if "head" in source else None)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (Wishes(), "source and destination are both "),
        (Wishes(source="a:x", destination="b:y"), "neither a:x nor b:y is on this machine"),
    ],
)
def test_ends_that_cannot_be_are_refused(workplace, wishes, message):
    with pytest.raises(SoractlError, match=message) as refused:
        find_way(wishes, {})
    assert refused.value.exit_code == 2


def test_the_plan_is_made_from_what_both_ends_have(tmp_path, save_weights):
    run = create_run(tmp_path, "stage1")
    first, second = save_weights(run, 1), save_weights(run, 2)
    way = Way(Place(HERE, tmp_path), Place(Node("far"), Path("/copy")), SshOptions(user="me"))
    files = {name: facts for name, facts in first.manifest.files.items() if name in COPIED}
    there = Checkpoint(Path("/copy") / first.name, replace(first.manifest, files=files))
    seen = Seen((first, second), {"epoch0-global_step3": "no checkpoint.json"})
    made = plan(way, run, seen, Seen((there,)), Wishes(bwlimit=50))
    assert (made.there, made.incomplete, made.bytes) == ((first.name,), seen.incomplete, 2020)
    [item] = made.copies
    assert item.manifest.left_out == ("optimizer",)
    assert sorted(item.manifest.files) == COPIED
    checkpoints = Path("/copy/001-stage1/checkpoints")
    assert made.commands[1] == [
        *("rsync", "-a", "-s", "--timeout=60", "--partial-dir=.rsync-partial"),
        *("--delete", "--delete-excluded", "--filter=P .rsync-partial/", "--exclude=/optimizer"),
        *("--exclude=/checkpoint.json", "--exclude=/.read-by-*", "--info=progress2"),
        *("--no-human-readable", "--outbuf=N", "--bwlimit=50"),
        "--rsh=ssh -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=15 "
        "-c aes128-gcm@openssh.com -l me",
        f"--rsync-path=flock -w 3 -E 75 {checkpoints}/.sync.lock rsync",
        f"{second.path}/",
        f"far:{checkpoints}/.incoming-{second.name}/",
    ]


def test_rsyncs_progress_is_read_from_any_piece_of_it():
    told = (
        b"\r         32,768   0%    0.00kB/s    0:00:00  \r      65536   1%  1.25MB/s    0:00:02  "
    )
    assert bytes_so_far(told) == 65536
    assert bytes_so_far(b" (xfr#1, to-chk=0/3)\n") is None


def test_what_a_node_says_of_its_checkpoints_is_judged_as_on_disk(tmp_path, save_weights):
    run = create_run(tmp_path, "stage1")
    whole = save_weights(run, 1)
    files = "".join(
        f"file {facts['bytes']} {name}\n" for name, facts in whole.manifest.files.items()
    )
    manifest = json.dumps(asdict(whole.manifest))
    told = (
        f"checkpoint {whole.name}\n{files}manifest {manifest}\n"
        f"checkpoint epoch0-global_step2\nfile 5 model/index.json\nmanifest {manifest}\n"
        "checkpoint epoch0-global_step3\n"
        "checkpoint epoch0-global_step4\nmanifest {\n"
    )
    seen = parse_look(run, told)
    assert seen.complete == (whole,)
    assert list(seen.incomplete) == [f"epoch0-global_step{step}" for step in (2, 3, 4)]
    assert seen.incomplete["epoch0-global_step3"] == "no checkpoint.json"


def test_the_head_nodes_newest_run_comes_here_without_its_optimizer(lab, save_weights):
    lab.run_at(lab.there / "runs")
    run = lab.run_at(lab.there / "runs", "stage2")
    for step in (5, 10, 7):
        save_weights(run, step)
    (run.checkpoints_folder / "epoch0-global_step12").mkdir()
    stdout, stderr = lab.sync()
    copy = lab.copy_of(run)
    assert_copied(run, copy)
    assert (
        copy.run_json.read_bytes(),
        copy.config_json.read_bytes(),
        copy.metrics.read_bytes(),
    ) == (
        run.run_json.read_bytes(),
        run.config_json.read_bytes(),
        run.metrics.read_bytes(),
    )
    assert re.sub(r"in .*", "in T", stdout).splitlines() == [
        *(f"copied {copy.checkpoints_folder}/epoch0-global_step{step}" for step in (5, 7, 10)),
        "is not complete: epoch0-global_step12: no checkpoint.json",
        "copied 3 checkpoints, 6.1 kB in T",
    ]
    host = lab.node.partition(":")[0]
    first, *progress = stderr.splitlines()  # only a slow copy shows any
    assert first == f"002-stage2 from {host}:{lab.there}/runs to {lab.here}/runs"
    assert all("/s" in line for line in progress)
    assert not list(run.checkpoints_folder.rglob(".read-by-*"))


def test_what_is_there_is_left_alone_and_only_the_new_one_is_copied(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    lab.sync()
    [first] = lab.copy_of(run).checkpoints()
    before = first.path.stat().st_mtime_ns, (first.path / "checkpoint.json").stat().st_ino
    assert lab.sync()[0] == "nothing to do; 1 checkpoint there already\n"
    save_weights(run, 6)
    assert "copied 1 checkpoint, 2.0 kB" in lab.sync()[0].splitlines()[-1]
    assert_copied(run, lab.copy_of(run))
    after = first.path.stat().st_mtime_ns, (first.path / "checkpoint.json").stat().st_ino
    assert after == before


def test_a_run_here_goes_to_a_node(lab, save_weights):
    run = lab.run_at(lab.here / "runs")
    save_weights(run, 5)
    save_weights(run, 6)
    target = f"{lab.node}:{lab.there}/new/archive"
    lab.sync("1", "--to", target)
    copy = RunDir(lab.there / "new/archive" / run.name)
    assert_copied(run, copy)
    assert lab.sync("001-stage1", "--to", target)[0] == (
        "nothing to do; 2 checkpoints there already\n"
    )


@pytest.mark.parametrize("push", [False, True])
def test_the_optimizer_can_be_added_later_and_the_averages_can_come_alone(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    save_weights(run, 5)
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    way = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    lab.sync("latest", *way, "--ema-only")
    assert_copied(run, copy, ("ema",))
    assert copy.checkpoints()[0].manifest.left_out == ("model", "optimizer")
    ema = (copy.checkpoints()[0].ema / "model.safetensors").stat().st_ino
    lab.sync("latest", *way, "--with-optimizer")
    assert_copied(run, copy, ("model", "ema", "optimizer"))
    assert copy.checkpoints()[0].manifest == run.checkpoints()[0].manifest
    assert (copy.checkpoints()[0].ema / "model.safetensors").stat().st_ino == ema
    assert "nothing to do" in lab.sync("latest", *way)[0]


def test_a_copy_without_optimizer_cannot_be_resumed_and_says_so(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    lab.sync()
    [copied] = lab.copy_of(run).checkpoints()
    with pytest.raises(SoractlError) as refused:
        for_resume(lab.copy_of(run))
    assert str(refused.value) == (
        f"{copied.path} holds no optimizer, so nothing can resume from it"
    )
    assert for_resume(run).path == run.checkpoints()[0].path


@pytest.mark.parametrize("push", [False, True])
def test_a_step_that_was_saved_anew_replaces_its_copy(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    way = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    for _ in range(2):
        save_weights(run, 5)
        lab.sync("latest", *way)
        assert_copied(run, copy)


def test_the_plan_says_every_command_and_copies_nothing(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    stdout, _ = lab.sync("--dry-run", "--bwlimit", "100")
    lines = stdout.splitlines()
    assert (lines[0], lines[-1], len(lines)) == (
        "would copy epoch0-global_step5  2.0 kB",
        "would copy 1 checkpoint, 2.0 kB",
        4,
    )
    assert not (lab.here / "runs").exists()
    for line in lines[1:3]:
        (lab.here / "runs" / run.name / "checkpoints").mkdir(parents=True, exist_ok=True)
        subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    assert sorted(incoming(lab.copy_of(run))) == [
        f".incoming-epoch0-global_step5/{name}" for name in COPIED
    ]
    told = json.loads(lab.sync("--dry-run", "--json")[0])
    assert told["planned"] == [{"checkpoint": "epoch0-global_step5", "bytes": 2020}]
    assert [argv[0] for argv in told["commands"]] == ["rsync", "rsync"]


@pytest.mark.parametrize("push", [False, True])
def test_a_file_that_is_not_what_the_manifest_says_is_never_published(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    way = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    save_weights(run, 5)
    save_weights(run, 6)
    broken = run.checkpoints()[0].model / "model 1.safetensors"
    good = broken.read_bytes()
    broken.write_bytes(bytes(len(good)))
    stdout, _ = lab.sync("latest", *way, code=1)
    assert stdout.splitlines()[1] == (
        "epoch0-global_step5: model/model 1.safetensors is damaged at the source"
    )
    assert names(copy) == ["epoch0-global_step6"]
    broken.write_bytes(good)
    lab.sync("latest", *way)
    assert_copied(run, copy)


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
    way = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    first = save_weights(run, 5, 4 * SLOW_BYTES)
    save_weights(run, 6)
    process = lab.start("latest", *way, "--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: incoming(copy))
    shutil.rmtree(first.path)
    stdout, _ = process.communicate()
    assert "epoch0-global_step5 was removed at the source meanwhile" in stdout
    assert (process.returncode, names(copy)) == (0, ["epoch0-global_step6"])
    lab.sync("latest", *way)
    assert incoming(copy) == {}


def test_a_full_destination_is_told_and_the_next_sync_goes_on(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5, 3_000_000)
    save_weights(run, 6, 3_000_000)
    (lab.here / "runs").mkdir()
    small = f"mount -t tmpfs -o size=4500k none {lab.here}/runs && "
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*prefix, f"{small} true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces")
    script = f'{small} "$@"; code=$?; ls runs/*/checkpoints >&2; exit $code'
    stdout, stderr = lab.sync(prefix=[*prefix, script, "sh"], code=1)
    assert stdout == ""
    assert [line for line in stderr.splitlines()[1:] if "/s" not in line] == [
        f"error: no space left on {lab.here}/runs/{run.name}/checkpoints/"
        ".incoming-epoch0-global_step6",
        "hint: what was copied stays for the next sync; `soractl ckpt prune` makes room",
        "epoch0-global_step5",
    ]
    lab.sync()
    assert_copied(run, lab.copy_of(run))


@pytest.mark.parametrize("push", [False, True])
def test_two_syncs_never_write_the_same_run_at_once(lab, save_weights, push):
    run = lab.run_at((lab.here if push else lab.there) / "runs")
    way = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    save_weights(run, 5, 10 * SLOW_BYTES)
    first = lab.start("latest", *way, "--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: incoming(copy))
    _, stderr = lab.sync("latest", *way, code=5)
    assert "error: another sync of this run is at work on " in stderr
    first.send_signal(signal.SIGINT)
    first.communicate()
    lab.sync("latest", *way)
    assert_copied(run, copy)


def test_ctrl_c_keeps_what_came_and_the_next_sync_goes_on_from_there(lab, save_weights):
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5, 4 * SLOW_BYTES)
    process = lab.start("--bwlimit", str(SLOW_KIB_PER_S))
    wait_for(lambda: sum(incoming(lab.copy_of(run)).values()) > 1_500_000)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "stopped; the next sync goes on from here"
    [size] = [size for name, size in incoming(lab.copy_of(run)).items() if PARTIAL in name]
    assert size > 500_000
    [_, again] = json.loads(lab.sync("--dry-run", "--json")[0])["commands"]
    told = subprocess.run([*again, "--stats"], capture_output=True, text=True, check=True).stdout
    matched = int(re.search(r"Matched data: ([0-9]+)", told)[1])
    assert size - 10_000 < matched <= size
    lab.sync()
    assert_copied(run, lab.copy_of(run))
    assert not list(lab.copy_of(run).path.rglob(PARTIAL))


def test_a_node_that_takes_another_cipher_alone_is_copied_from_too(
    tmp_path, start_sshd, save_weights
):
    server = start_sshd("127.0.77.2", "Ciphers aes256-ctr")
    lab = Lab(tmp_path, server)
    run = lab.run_at(lab.there / "runs")
    save_weights(run, 5)
    lab.sync()
    assert_copied(run, lab.copy_of(run))


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
    said = iter(process.stderr.readline, "")
    assert any("; trying again in 0.2 s" in line for line in said)
    assert names(copy) == ["epoch0-global_step5"]
    network.up = True
    wait_for(lambda: names(copy) == ["epoch0-global_step5", "epoch0-global_step6"])
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert_copied(run, copy)


def test_nothing_to_copy_from_is_exit_code_6(lab):
    assert "there is no run in" in lab.sync(code=6)[1]
    run = lab.run_at(lab.there / "runs")
    assert "has no complete checkpoint: there is none at all" in lab.sync(code=6)[1]
    (run.checkpoints_folder / "epoch0-global_step5").mkdir()
    assert "epoch0-global_step5: no checkpoint.json" in lab.sync(code=6)[1]
    assert not (lab.here / "runs").exists()


@pytest.mark.parametrize("sent", [0, 0.5])
def test_a_copy_gets_no_name_from_a_manifest_that_was_cut_off(tmp_path, save_weights, sent):
    source, copy = create_run(tmp_path / "source", "stage1"), RunDir(tmp_path / "copy" / "run")
    checkpoint = save_weights(source, 5)
    incoming = incoming_path(copy, checkpoint.manifest)
    shutil.copytree(checkpoint.path, incoming)
    (incoming / "checkpoint.json").unlink()

    def killed_while_it_sends(node, request, deadline_s):
        cut = request.stdin[: int(sent * len(request.stdin))]
        done = subprocess.run(request.argv, input=cut, capture_output=True, text=True)
        return NodeResult(node, done.stdout, done.stderr, done.returncode)

    with pytest.raises(SoractlError):
        There(Place(Node("n1"), tmp_path), killed_while_it_sends).publish(copy, checkpoint.manifest)
    assert names(copy) == []


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


def kill_at_random(lab, run, copy, way, *, rounds, seed):
    """Syncs killed at random moments, alone or with all that they started; whole copies made."""
    random_of = random.Random(seed)
    watcher = Watcher(copy)
    watcher.start()
    whole = 0
    for _ in range(rounds):
        process = lab.start("latest", *way, "--bwlimit", "20000")
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
    lab.sync("latest", *way)
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
    way = ["--to", f"{lab.node}:{lab.there}/copy"] if push else []
    copy = RunDir(lab.there / "copy" / run.name) if push else lab.copy_of(run)
    for step in (1, 2, 3):
        save_weights(run, step, 3_000_000)
    assert kill_at_random(lab, run, copy, way, rounds=rounds, seed=rounds) < rounds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "/proc/foo"], "/proc/foo"),
        (["--to", "file"], "file/001-stage1"),
        (["--from", "file", "--to", "other"], "there is no run in "),
    ],
)
def test_a_folder_of_no_use_is_one_sentence(lab, save_weights, arguments, message):
    save_weights(lab.run_at(lab.here / "runs"), 5)
    (lab.here / "file").touch()
    _, stderr = lab.sync("latest", *arguments, code=6 if "other" in arguments else 1)
    assert "Traceback" not in stderr
    assert message in stderr.splitlines()[-1 if "other" not in arguments else -2]


def test_a_run_that_is_named_by_its_folder_is_taken_from_there(lab, save_weights):
    lab.run_at(lab.here / "runs")
    run = lab.run_at(lab.there / "elsewhere")
    save_weights(run, 5)
    lab.sync(str(run.path))
    assert_copied(run, lab.copy_of(run))


def test_what_is_watched_for_comes_though_a_round_failed(lab, save_weights):
    run = lab.run_at(lab.here / "runs")
    save_weights(run, 5)
    (lab.here / "copy").touch()
    process = lab.start("latest", "--to", "copy", "--watch", "0.2")
    said = iter(process.stderr.readline, "")
    assert any("trying again in 0.2 s" in line for line in said)
    (lab.here / "copy").unlink()
    wait_for(lambda: names(RunDir(lab.here / "copy" / run.name)))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_a_read_only_folder_of_runs_is_copied_from_and_checked_but_not_pruned(
    lab, small_disk, save_weights
):
    disk = small_disk("400k")
    run = lab.run_at(disk)
    for step in (1, 2, 3):
        save_weights(run, step)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    lab.sync("latest", "--from", str(disk))
    assert_copied(run, lab.copy_of(run))
    lab.sync("latest", "--from", str(disk), "--to", f"{lab.node}:{lab.there}/copy")
    assert verify(disk, "1", lambda _: None).exit_code == 0
    with pytest.raises(SoractlError, match="cannot be removed: Read-only file system"):
        prune(disk, "1", Rule(), dry_run=False)


def test_two_ways_to_say_what_to_copy_exclude_each_other(workplace):
    with pytest.raises(SoractlError, match="exclude each other") as refused:
        find_way(Wishes(destination="copy", with_optimizer=True, ema_only=True), {})
    assert refused.value.exit_code == 2
