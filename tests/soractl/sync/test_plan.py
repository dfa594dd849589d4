from dataclasses import replace
from pathlib import Path

import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.remote.ssh_command import SshOptions
from soractl.sync.locations import Location
from soractl.sync.plan import Endpoints, SyncOptions, find_endpoints, plan
from soractl.sync.stores import CheckpointListing
from tests.soractl.sync.copying import COPIED
from trainer.atomic_files import write_json
from trainer.checkpoint_dir import Checkpoint
from trainer.run_dir import create_run

HERE = Node("here", local=True)


def here_to_there(folder):
    return Endpoints(
        Location(HERE, folder), Location(Node("far"), Path("/copy")), SshOptions(user="me")
    )


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
def test_source_and_destination_follow_from_the_options(workplace, options, source, destination):
    workplace.write("hostfiles/nodes.txt", "head\nnode-2\n")
    workplace.write("hostfiles/nodes.toml", 'workdir = "/shared"\n[ssh]\nuser = "cluster"\n')
    endpoints = find_endpoints(options, {})
    ends = [
        str(end).removeprefix(f"{workplace.folder}/")
        for end in (endpoints.source, endpoints.destination)
    ]
    assert ends == [source, destination]
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
    endpoints = here_to_there(tmp_path)
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


def test_the_newest_checkpoint_is_copied_first(tmp_path, save_weights):
    run = create_run(tmp_path, "stage1")
    at_source = CheckpointListing(tuple(save_weights(run, step) for step in (1, 2, 3)))
    made = plan(here_to_there(tmp_path), run, at_source, CheckpointListing(), SyncOptions())
    steps = [item.manifest.global_step for item in made.copies]
    assert steps == [3, 2, 1]


def test_a_checkpoints_path_is_all_that_is_copied(workplace, save_weights):
    run = create_run(workplace.folder / "elsewhere", "stage1")
    write_json(run.run_json, {})
    first, second = save_weights(run, 1), save_weights(run, 2)
    options = SyncOptions(run=f"elsewhere/001-stage1/checkpoints/{first.name}/")
    assert find_endpoints(options, {}).source.folder == run.path.parent
    at_source = CheckpointListing((first, second), {"epoch0-global_step3": "no checkpoint.json"})
    made = plan(here_to_there(run.path.parent), run, at_source, CheckpointListing(), options)
    assert [item.checkpoint for item in made.copies] == [first]
    assert made.incomplete == {}


@pytest.mark.parametrize(("step", "reason"), [(3, "no checkpoint.json"), (4, "it is not there")])
def test_a_checkpoint_that_is_not_complete_is_named_with_the_reason(
    tmp_path, save_weights, step, reason
):
    run = create_run(tmp_path, "stage1")
    at_source = CheckpointListing(
        (save_weights(run, 1),), {"epoch0-global_step3": "no checkpoint.json"}
    )
    name = f"epoch0-global_step{step}"
    options = SyncOptions(run=f"{run.path}/checkpoints/{name}")
    with pytest.raises(SoractlError) as caught:
        plan(here_to_there(tmp_path), run, at_source, CheckpointListing(), options)
    assert caught.value.exit_code == 6
    assert caught.value.message.endswith(f"has no complete checkpoint: {name}: {reason}")


def test_two_ways_to_say_what_to_copy_exclude_each_other(workplace):
    with pytest.raises(SoractlError, match="exclude each other") as refused:
        find_endpoints(SyncOptions(destination="copy", with_optimizer=True, ema_only=True), {})
    assert refused.value.exit_code == 2
