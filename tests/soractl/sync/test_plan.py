import json
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.remote.ssh_command import SshOptions
from soractl.sync.locations import Location, incoming_path, parse_location
from soractl.sync.plan import Endpoints, SyncOptions, find_endpoints, plan
from soractl.sync.remote_store import RemoteStore, parse_listing
from soractl.sync.rsync import bytes_so_far
from soractl.sync.stores import CheckpointListing
from tests.soractl.sync.copying import COPIED, names
from trainer.checkpoint_dir import Checkpoint
from trainer.run_dir import RunDir, create_run

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
    assert parse_location(words, HERE) == Location(node, Path(folder.format(cwd=Path.cwd())))


@pytest.mark.parametrize(
    ("options", "source", "destination"),
    [
        (SyncOptions(), "head:/shared/runs", "runs"),
        (SyncOptions(source="other:/x"), "other:/x", "runs"),
        (SyncOptions(destination="other:/x"), "runs", "other:/x"),
        (SyncOptions(hostfile="nodes.txt", destination="kept"), "head:/shared/runs", "kept"),
        (SyncOptions(source="a", destination="b"), "a", "b"),
    ],
)
def test_the_two_ends_follow_from_what_is_said(workplace, options, source, destination):
    workplace.write("hostfiles/nodes.txt", "head\nnode-2\n")
    workplace.write("hostfiles/nodes.toml", 'workdir = "/shared"\n[ssh]\nuser = "cluster"\n')
    endpoints = find_endpoints(options, {})
    told = [
        str(end).removeprefix(f"{workplace.folder}/")
        for end in (endpoints.source, endpoints.destination)
    ]
    assert told == [source, destination]
    assert endpoints.ssh.user == ("cluster" if "head" in source else None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SyncOptions(), "source and destination are both "),
        (SyncOptions(source="a:x", destination="b:y"), "neither a:x nor b:y is on this machine"),
    ],
)
def test_ends_that_cannot_be_are_refused(workplace, options, message):
    with pytest.raises(SoractlError, match=message) as refused:
        find_endpoints(options, {})
    assert refused.value.exit_code == 2


def test_the_plan_is_made_from_what_both_ends_have(tmp_path, save_weights):
    run = create_run(tmp_path, "stage1")
    first, second = save_weights(run, 1), save_weights(run, 2)
    endpoints = Endpoints(
        Location(HERE, tmp_path), Location(Node("far"), Path("/copy")), SshOptions(user="me")
    )
    files = {name: facts for name, facts in first.manifest.files.items() if name in COPIED}
    there = Checkpoint(Path("/copy") / first.name, replace(first.manifest, files=files))
    seen = CheckpointListing((first, second), {"epoch0-global_step3": "no checkpoint.json"})
    made = plan(endpoints, run, seen, CheckpointListing((there,)), SyncOptions(bwlimit=50))
    assert (made.there, made.incomplete, made.bytes) == ((first.name,), seen.incomplete, 2020)
    [item] = made.copies
    assert item.manifest.left_out == ("optimizer",)
    assert sorted(item.manifest.files) == COPIED
    checkpoints = Path("/copy/001-stage1/checkpoints")
    assert made.commands[1] == [
        *("rsync", "-rltp", "-s", "--timeout=60", "--partial-dir=.rsync-partial"),
        *("--delete", "--delete-excluded", "--filter=P .rsync-partial/", "--exclude=/optimizer"),
        *("--exclude=/checkpoint.json", "--exclude=/.read-by-*", "--info=progress2"),
        *("--no-human-readable", "--outbuf=N", "--bwlimit=50"),
        "--rsh=ssh -o RemoteCommand=none -o RequestTTY=no -o ClearAllForwardings=yes -l me "
        "-o BatchMode=yes -o UpdateHostKeys=no -o StrictHostKeyChecking=yes -o ConnectTimeout=5 "
        "-o ServerAliveInterval=15 -c aes128-gcm@openssh.com",
        """--rsync-path=sh -c 'exec 9>> "$0"; flock -w 3 -E 75 9 2>/dev/null; """
        f"""[ $? -ne 75 ] || exit 75; exec "$@"' {checkpoints}/.sync.lock rsync""",
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
    seen = parse_listing(run, told)
    assert seen.complete == (whole,)
    assert list(seen.incomplete) == [f"epoch0-global_step{step}" for step in (2, 3, 4)]
    assert seen.incomplete["epoch0-global_step3"] == "no checkpoint.json"


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
        RemoteStore(Location(Node("n1"), tmp_path), killed_while_it_sends).publish(
            copy, checkpoint.manifest
        )
    assert names(copy) == []


@pytest.mark.parametrize("programs", [("sha256sum",), ("sha256sum", "openssl")])
def test_a_node_names_the_files_that_are_not_as_the_manifest_says(tmp_path, save_weights, programs):
    checkpoint = save_weights(create_run(tmp_path / "runs", "stage1"), 5)
    changed, missing, *_ = checkpoint.manifest.files
    (checkpoint.path / changed).write_text("other")
    (checkpoint.path / missing).unlink()
    (tmp_path / "bin").mkdir()
    for program in ("sh", "xargs", *programs):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))

    def with_these_programs(node, request, deadline_s):
        environ = {"PATH": str(tmp_path / "bin")}
        done = subprocess.run(
            request.argv, input=request.stdin, env=environ, capture_output=True, text=True
        )
        return NodeResult(node, done.stdout, done.stderr, done.returncode)

    node = RemoteStore(Location(Node("n1"), tmp_path), with_these_programs)
    assert node.damaged(checkpoint.path, checkpoint.manifest.files) == {
        changed: "has another checksum than its manifest",
        missing: "cannot be read",
    }


def test_two_ways_to_say_what_to_copy_exclude_each_other(workplace):
    with pytest.raises(SoractlError, match="exclude each other") as refused:
        find_endpoints(SyncOptions(destination="copy", with_optimizer=True, ema_only=True), {})
    assert refused.value.exit_code == 2
