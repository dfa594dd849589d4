"""Commands that use ssh in ways of their own, `sync` and `launch`, where plain ssh works."""

import sys
from pathlib import Path

import pytest

from tests.missing import give_up
from tests.soractl.remote.plain_ssh import BY_SSH, Row, in_head, login_shell, ssh_folder, write
from tests.soractl.sync.copying import assert_copied
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run

pytestmark = [pytest.mark.ssh, pytest.mark.slow]

TRAIN = """
import os, sys
import torch.distributed as dist
dist.init_process_group("gloo")
place = f"rank {dist.get_rank()} of {dist.get_world_size()}"
os.write(1, f"{place}: {sys.argv[1:]}, {os.environ['ODD']}\\n".encode())
dist.barrier()
dist.destroy_process_group()
"""


def run_on_a_node(folder, save_weights) -> RunDir:
    run = create_run(folder / "a node's runs!", "stage1")
    write_json(run.run_json, {"stage": "stage1"})
    write_json(run.config_json, {"checkpoint": {"keep_last": 2, "keep_every_steps": 0}})
    run.metrics.write_text('{"global_step": 1}\n')
    save_weights(run, 2)
    return run


def soractl(lab, folder, *words, first="", timeout_s=60):
    code = (
        f"{first}\nimport os, sys; os.chdir({str(folder)!r}); from soractl.cli import main; main()"
    )
    done = in_head(lab, sys.executable, "-c", code, *words, timeout_s=timeout_s)
    print(" ".join(words), done.returncode, done.stdout, done.stderr)  # noqa: T201 - beside ssh's
    return done


def sync(lab, tmp_path, save_weights, lines="") -> None:
    """`sync` from n1 copies what is there, plain ssh reaching n1 by the same configuration."""
    write(lab, Row(lines))
    plain = in_head(lab, "ssh", "-o", "BatchMode=yes", "-o", "RemoteCommand=none", "n1", "true")
    assert plain.returncode == 0, plain.stderr
    run, here = run_on_a_node(tmp_path, save_weights), tmp_path / "here"
    here.mkdir()
    done = soractl(lab, here, "sync", "latest", "--from", f"n1:{run.path.parent}", "--to", "copy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_copied(run, RunDir(here / "copy" / run.name))


@pytest.mark.parametrize("shell", ["/bin/bash", "/usr/bin/tcsh"])
@pytest.mark.parametrize("client", ["", BY_SSH])
def test_sync_from_a_node(lab, tmp_path, save_weights, shell, client):
    with login_shell(lab, shell):
        sync(lab, tmp_path, save_weights, client)


def test_sync_where_a_command_of_its_own_and_a_terminal_are_configured(lab, tmp_path, save_weights):
    sync(lab, tmp_path, save_weights, "RemoteCommand bash -l\nRequestTTY yes\n")


def test_sync_with_a_long_folder_for_temporary_files(lab, tmp_path, save_weights, monkeypatch):
    folder = tmp_path / ("x" * 93)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    sync(lab, tmp_path, save_weights)


def test_sync_goes_over_a_living_control_path(lab, tmp_path, save_weights):
    lines = "Host n1\n ControlPath @HOME/.ssh/cm-%h\n IdentityFile @HOME/nothing\n"
    write(lab, Row(lines))
    key = ssh_folder(lab) / "id_ed25519"
    master = in_head(lab, "ssh", "-i", str(key), "-M", "-o", "ControlPersist=60", "-fN", "n1")
    assert master.returncode == 0, master.stderr
    try:
        away = key.rename(key.with_name("away"))
        sync(lab, tmp_path, save_weights, lines)
        alive = in_head(lab, "ssh", "-O", "check", "n1")
        assert alive.returncode == 0, "the user's own connection was ended"
    finally:
        away.rename(key)
        in_head(lab, "ssh", "-O", "exit", "n1")


def test_exec_under_tcsh_passes_words_whole(lab, tmp_path):
    write(lab, Row(""))
    with login_shell(lab, "/usr/bin/tcsh"):
        done = soractl(lab, tmp_path, "exec", "n1,", "--", "echo one!two")
    assert (done.returncode, done.stdout) == (0, "n1: one!two\n")


def test_launch_under_tcsh(lab, tmp_path):
    """ColossalAI's launcher hands exports to a shell of its own, whatever the login shell is."""
    if not Path(sys.executable).with_name("colossalai").exists():
        give_up("ColossalAI is not installed")
    write(lab, Row(""))
    (tmp_path / "hostfiles").mkdir()
    (tmp_path / "hostfiles" / "two.txt").write_text("n1 slots=1\nn2 slots=1\n")
    (tmp_path / "hostfiles" / "two.toml").write_text(
        f'environment = "{Path(sys.executable).parent}"\nmaster_port = 29511\n[env]\n'
        'OMP_NUM_THREADS = 1\nGLOO_SOCKET_IFNAME = "eth0"\nODD = "one!two (3) \'four\' *"\n'
    )
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "data" / "smoke").mkdir(parents=True)
    (tmp_path / "data" / "smoke" / "clips.csv").write_text("path,caption\n")
    stand_in = (
        "from pathlib import Path\nfrom soractl.launch import plan, preflight, start\n"
        "for module in (plan, preflight, start):\n"
        f"    module.TRAIN_SCRIPT = Path({str(tmp_path / 'train.py')!r})"
    )
    with login_shell(lab, "/usr/bin/tcsh"):
        done = soractl(
            lab, tmp_path, "launch", "smoke", "--hostfile", "two.txt", first=stand_in, timeout_s=120
        )
    assert done.returncode == 0
    attempt = RunDir(tmp_path / "runs" / "001-smoke").attempts()[-1]
    logs = [attempt.node_log(name) for name in ("n1", "n2")]
    lines = [line for log in logs for line in log.read_text().splitlines() if "rank " in line]
    assert sorted(lines) == [
        f"rank {rank} of 2: {[str(tmp_path / 'runs/001-smoke')]}, one!two (3) 'four' *"
        for rank in range(2)
    ]
