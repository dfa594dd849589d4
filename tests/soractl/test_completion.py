import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.missing import give_up
from trainer.run_dir import RunDir
from trainer.stage_files import shipped_folder

BIN = Path(sys.executable).parent
MOST_S = 30


@pytest.fixture
def complete(workplace):
    """Complete the last of the words as bash would; returns the lines that it gets."""

    def words(*line):
        environ = {
            "COMP_WORDS": "\n".join(["soractl", *line]),
            "COMP_CWORD": str(len(line)),
            "_SORACTL_COMPLETE": "complete_bash",
        }
        done = subprocess.run(
            [BIN / "soractl"],
            cwd=workplace.folder,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return words


STAGES = sorted(path.stem for path in shipped_folder().glob("stage*.toml"))


def test_commands_options_and_stages_are_completed(complete, workplace):
    workplace.write("configs/stage-mine.toml", "")
    assert complete("la") == ["launch"]
    assert complete("ckpt", "ad") == ["adopt"]
    assert complete("launch", "--det") == ["--detach"]
    mine_too = ["stage-mine", *STAGES]
    for line in (["launch"], ["config", "show"], ["config", "copy"], ["config", "diff", "stage1"]):
        assert complete(*line, "st") == mine_too
    for line in (["data", "encode"], ["data", "buckets"], ["ckpt", "adopt", "folder"]):
        assert complete(*line, "st") == mine_too


def test_runs_and_checkpoints_are_completed_from_the_folder_that_is_named(
    complete, workplace, save_checkpoint
):
    for name in ("009-smoke", "010-stage1"):
        run = RunDir(workplace.folder / "there" / name)
        run.checkpoints_folder.mkdir(parents=True)
        save_checkpoint(run, 5)
    newest_first = ["latest", "010-stage1", "009-smoke"]
    named = ["--runs", "there"]
    for line in (["status"], ["logs"], ["kill"], ["ckpt", "list"], ["resume"], ["ckpt", "verify"]):
        assert complete(*line, *named, "")[:3] == newest_first
    assert complete("sync", "") == ["latest"]  # in runs/, where there is none
    checkpoint = "there/010-stage1/checkpoints/epoch0-global_step5"
    for line in (["resume"], ["ckpt", "verify"], ["launch", "stage2", "--init-from"]):
        if "--init-from" in line:
            line = ["launch", *named, "stage2", "--init-from"]
            assert complete(*line, "there/010") == [checkpoint]
        else:
            assert complete(*line, *named, "there/010") == [checkpoint]


def test_hostfiles_and_nodes_are_completed(complete, workplace):
    workplace.write("hostfiles/nodes.txt", "node-[1-2]\n")
    workplace.write("hostfiles/no-such.txt", "?\n")
    everything = ["no-such.txt", "nodes.txt", "node-1,", "node-2,"]
    for line in (["gpus"], ["exec"], ["launch", "--hostfile"], ["kill", "--hostfile"]):
        assert complete(*line, "no") == everything
    assert complete("exec", "nodes.txt", "--", "no") == []
    workplace.write("hostfiles/nodes.txt", "?\n")
    assert complete("gpus", "no") == everything[:2]


def test_nodes_of_a_run_are_completed(complete, workplace):
    assert complete("logs", "--node", "") == []
    workplace.ranks("train(1, 1)\nsave(1)")
    workplace.soractl("launch", "smoke")
    [name] = complete("logs", "--node", "")
    assert name == os.uname().nodename


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_after_the_installation(shell, workplace):
    if not shutil.which(shell):
        give_up(f"{shell} is not installed")
    environ = {**os.environ, "HOME": str(workplace.folder), "HISTFILE": ""}
    environ |= {"PATH": f"{BIN}:{os.environ['PATH']}", "ZDOTDIR": str(workplace.folder)}
    installed = subprocess.run(
        [shell, "-c", "soractl --install-completion; true"],  # not the last: no exec
        env=environ,
        cwd=workplace.folder,
        capture_output=True,
        text=True,
    )
    assert (installed.returncode, installed.stderr) == (0, "")
    with (workplace.folder / f".{shell}rc").open("a") as file:
        file.write("PS1='ready> '\n")
    with Terminal([shell, "-i"], environ) as terminal:
        terminal.wait_for("ready> ")
        terminal.send("soractl launch st\t\t")  # zsh loads Typer's function at the first
        terminal.wait_for("launch stage")  # what all have in common
        terminal.send("\t\t")
        terminal.wait_for("stage7")


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, command, environ):
        self.seen = ""
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.end)

    def send(self, text):
        os.write(self.end, text.encode())

    def wait_for(self, text):
        """Read until it shows."""
        deadline = time.monotonic() + MOST_S
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.end], [], [], 0.2)[0]:
                self.seen += os.read(self.end, 65536).decode(errors="replace").replace("\a", "")
