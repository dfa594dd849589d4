import json
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from soractl.launch import probe


def asked(tmp_path, executable=sys.executable, **changes):
    """Fields by kind and item."""
    question = {
        "marker": str(tmp_path / "runs/marker"),
        "head": "127.0.0.1",
        "port": 0,
        "code": str(tmp_path),
        "packages": ["pytest", "no-such-package"],
        "cache": str(tmp_path / "hub"),
    }
    found = {}
    for kind, item, field, value in probe.facts({**question, **changes}, executable):
        found.setdefault(kind, {}).setdefault(item, {})[field] = value
    return found


def test_a_node_without_the_shared_folder_answers_that_it_sees_no_marker(tmp_path):
    found = asked(tmp_path)["launch"][""]
    assert (found["marker"], found["free bytes"], found["writes"]) == ("none", "?", "no")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/marker").write_text("secret")
    found = asked(tmp_path)["launch"][""]
    assert (found["marker"], found["free bytes"] > 0, found["writes"]) == ("secret", True, "yes")


def test_versions_are_those_of_this_python_and_of_what_is_not_installed_it_says_so(tmp_path):
    versions = {item: fields["version"] for item, fields in asked(tmp_path)["version"].items()}
    assert versions == {
        "python": platform.python_version(),
        "trainer code": probe.digest_of(str(tmp_path)),
        "pytest": metadata.version("pytest"),
        "no-such-package": "not installed",
        "NCCL": "none",
    }


def test_another_package_is_another_digest_and_nccl_has_its_version(tmp_path):
    folder = tmp_path / f"env/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    folder.mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").write_text("")
    python = str(tmp_path / "env/bin/python3")
    (folder / "torch-2.13.0+cu130.dist-info").mkdir()
    before = asked(tmp_path, python, packages=["torch"])
    assert before["version"]["torch"] == {"version": "2.13.0+cu130"}
    assert before["launch"][""]["environment"] == "venv"
    (folder / "nvidia_nccl_cu13-2.28.9.dist-info").mkdir()
    after = asked(tmp_path, python, packages=["torch"])
    assert after["version"]["NCCL"] == {"version": "2.28.9"}
    assert before["packages"][""]["digest"].startswith("1 packages with digest ")
    assert after["packages"][""]["digest"].startswith("2 packages with digest ")


def test_other_code_has_another_digest_wherever_it_lies(tmp_path):
    for folder, code in (("a", "x = 1"), ("b", "x = 1"), ("c", "x = 2")):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / "one.py").write_text(code)
    first, same, other = (probe.digest_of(str(tmp_path / folder)) for folder in "abc")
    assert first == same != other


def test_a_name_that_nobody_knows_has_no_address(tmp_path):
    names = asked(tmp_path, names=["no-such-host.invalid", "localhost"], meeting=9)["name"]
    assert names["no-such-host.invalid"] == {"addresses": "none"}
    assert "127.0.0.1" in names["localhost"]["addresses"].split()
    assert names["localhost"]["answers"] == "yes"


def test_a_machine_that_refuses_a_connection_is_reached_and_silence_is_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        listening = server.getsockname()[1]
        assert probe.reached({"a": "127.0.0.1"}, listening) == {"a": True}
    assert probe.reached({"a": "127.0.0.1"}, listening) == {"a": True}
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # the queue is full: no answer
            assert probe.reached({"a": "127.0.0.1"}, port) == {"a": False}


def test_the_probe_loads_nothing_that_starts_slowly():
    code = "import sys\n" + Path(probe.__file__).read_text() + "\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True)
    assert {"json", "re", "pathlib", "typing", "site"} & {*done.stdout.split()} == set()


def test_a_port_on_which_somebody_listens_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert not probe.port_is_free(port)
    assert probe.port_is_free(port)


def tensors(path, bytes_in_all, bytes_there):
    """A safetensors file that its header makes so large."""
    header = json.dumps({"a": {"dtype": "U8", "data_offsets": [0, bytes_in_all]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(bytes_there))


def weights(tmp_path, name="org/model"):
    return asked(tmp_path, weights=[name])["weights"][name]


def test_weights_of_a_repository_are_found_in_the_cache_and_must_be_whole(tmp_path):
    assert weights(tmp_path) == {"there": "no"}
    repository = tmp_path / "hub/models--org--model"
    snapshot = repository / "snapshots/abc"
    tensors(snapshot / "model.safetensors", 100, 100)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    assert weights(tmp_path) | {"files": ""} == {"there": "yes", "whole": "yes", "files": ""}
    index = snapshot / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "second.safetensors"}}))
    assert weights(tmp_path)["whole"] == "second.safetensors is missing"
    index.unlink()
    tensors(snapshot / "model.safetensors", 100, 99)
    assert weights(tmp_path)["whole"].startswith("model.safetensors has ")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/gone")
    assert weights(tmp_path)["whole"] == "model.safetensors leads nowhere"


def test_a_file_of_weights_and_a_checkpoint_are_whole_or_say_what_is_not(tmp_path):
    file = tmp_path / "start.pth"
    file.write_bytes(b"")
    assert weights(tmp_path, str(file))["whole"] == "start.pth is empty"
    folder = tmp_path / "epoch0-global_step2"
    folder.mkdir()
    (folder / "ema.pt").write_bytes(b"1234")
    manifest = {"files": {"ema.pt": {"bytes": 4}}}
    (folder / "checkpoint.json").write_text(json.dumps(manifest))
    assert weights(tmp_path, str(folder))["whole"] == "yes"
    (folder / "ema.pt").write_bytes(b"123")
    assert weights(tmp_path, str(folder))["whole"] == "ema.pt is not whole"


def test_clips_and_the_table_are_looked_for(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"1")
    table = str(tmp_path / "clips.csv")
    clips = [str(tmp_path / name) for name in ("a.mp4", "b.mp4")]
    assert asked(tmp_path, table=table, clips=clips)["data"][table] == {
        "size": "none",
        "clips": f"1 of 2: {clips[1]}",
    }
    (tmp_path / "clips.csv").write_text("path\n")
    assert asked(tmp_path, table=table, clips=clips[:1])["data"][table] == {
        "size": "5 bytes",
        "clips": "all",
    }


def test_a_login_is_seen_and_its_key_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert asked(tmp_path, wandb="api.wandb.ai")["wandb"] == {"": {"login": "no"}}
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password SECRET\n")
    found = asked(tmp_path, wandb="api.wandb.ai")
    assert found["wandb"] == {"": {"login": "yes"}}
    assert "SECRET" not in json.dumps(found)


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"a": 1}', b'{"a": {"data_offsets": "x"}}'])
def test_damaged_weights_are_a_fact_and_the_others_go_on(tmp_path, header):
    file = tmp_path / "start.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert weights(tmp_path, str(file))["whole"] == "start.safetensors is damaged"


@pytest.mark.parametrize("what", ["weight_map", "files"])
def test_a_list_of_files_that_is_none_is_damaged(tmp_path, what):
    name = {"weight_map": "model.index.json", "files": "checkpoint.json"}[what]
    folder = tmp_path / "epoch0-global_step2"
    folder.mkdir()
    (folder / name).write_text(json.dumps({what: 3}))
    assert weights(tmp_path, str(folder))["whole"] == f"{name} is damaged"


def test_weights_that_cannot_be_read_are_a_fact(tmp_path):
    folder = tmp_path / "start"
    (folder / "model.safetensors").mkdir(parents=True)
    assert probe.fault_of(str(folder), "model.safetensors", {"model.safetensors": 9}) == (
        "model.safetensors cannot be read"
    )
