import json
import shutil
import subprocess
from dataclasses import asdict

import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.sync.locations import Location, incoming_path
from soractl.sync.remote_store import RemoteStore, parse_listing
from tests.soractl.sync.copying import names
from trainer.run_dir import RunDir, create_run


def test_what_a_node_says_of_its_checkpoints_is_judged_as_on_disk(tmp_path, save_weights):
    run = create_run(tmp_path, "stage1")
    whole = save_weights(run, 1)
    files = "".join(
        f"file {facts['bytes']} {name}\n" for name, facts in whole.manifest.files.items()
    )
    manifest = json.dumps(asdict(whole.manifest))
    printed = (
        f"checkpoint {whole.name}\n{files}manifest {manifest}\n"
        f"checkpoint epoch0-global_step2\nfile 5 model/index.json\nmanifest {manifest}\n"
        "checkpoint epoch0-global_step3\n"
        "checkpoint epoch0-global_step4\nmanifest {\n"
    )
    seen = parse_listing(run, printed)
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
