import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from soractl.terminal import hints
from tests.making import make_manifest, publish_random_weights
from tests.missing import give_up
from trainer.run_dir import create_run

REPOSITORY = Path(__file__).parent.parent

STAND_IN = """\
#!{python}
import os, signal, sys, time
sys.path.insert(0, {repository!r})
from pathlib import Path
from trainer.atomic_files import append_jsonl, write_json
from tests.making import make_manifest, publish_random_weights
from trainer.run_dir import RunDir
run = RunDir(Path(sys.argv[-1]))
attempt = run.attempts()[-1]
def train(step, total):
    append_jsonl(run.metrics, [{{"global_step": step, "loss": 1 / step, "s_per_step": 0.1,
                                "clips_per_s": 20.0, "time_unix_s": time.time()}}])
    run.beat(step, total, attempt.number)
def save(step):
    draft = run.draft_path(0, step)
    draft.mkdir()
    (draft / "weights").write_text("1234")
    run.publish(draft, make_manifest(step, files={{"weights": {{"bytes": 4}}}}))
{code}
"""


def pytest_runtest_setup(item):
    """CI deselects what needs a GPU; whoever runs `pytest` by hand sees a reason."""
    if item.get_closest_marker("gpu") and not Path("/dev/nvidiactl").exists():
        pytest.skip("needs an NVIDIA GPU and its driver")


@pytest.fixture(autouse=True)
def own_hints():
    """What one test's invocation was given is repeated by no other's hints."""
    yield
    hints._given.clear()


@pytest.fixture(autouse=True)
def own_wandb():
    """W&B's process of one test serves no program that a later test starts."""
    yield
    os.environ.pop("WANDB_SERVICE", None)


class Workplace:
    """A folder to launch from, where `colossalai` is whatever the test says."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.write("hostfiles/local.toml", f'environment = "{self.bin}"\nranks_per_node = 2\n')
        self.write("data/smoke/clips.csv", "path,caption\n")
        self._program("torchrun", "")
        self.ranks("")

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def ranks(self, code):
        """Set the Python code that the ranks of every later launch run."""
        self._program("colossalai", textwrap.dedent(code))

    def soractl(self, *arguments, code=0, environ=()):
        """The command in a process of its own, whose exit code is checked."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **dict(environ)}
        done = subprocess.run(
            [sys.executable, "-m", "soractl.cli", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def _program(self, name, code):
        text = STAND_IN.format(python=sys.executable, repository=str(REPOSITORY), code=code)
        path = self.write(f"bin/{name}", text)
        path.chmod(0o755)


@pytest.fixture(autouse=True, scope="session")
def own_locks(tmp_path_factory):
    """Other runs on this machine, and other tests, reserve nothing of this process's runs."""
    os.environ["SORACTL_LOCKS"] = str(tmp_path_factory.mktemp("locks"))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("SORACTL_LOCKS", str(tmp_path / "locks"))
    for name in ("SORACTL_HOSTFILE", "SLURM_JOB_NODELIST", "CUDA_VISIBLE_DEVICES", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    yield Workplace(tmp_path)
    mark = f"SORACTL_RUN_ID={tmp_path}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture
def save_checkpoint():
    """Publish a complete checkpoint of one file with four bytes."""

    def save(run, step):
        draft = run.draft_path(0, step)
        draft.mkdir()
        (draft / "weights").write_text("1234")
        return run.publish(draft, make_manifest(step, files={"weights": {"bytes": 4}}))

    return save


@pytest.fixture
def small_disk(tmp_path):
    """Make a folder that is a file system of its own, of a size such as `400k`."""
    folder = tmp_path / "small"
    folder.mkdir()

    def make(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            give_up(f"no small file system: {done.stderr.strip()}")
        return folder

    yield make
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory):
    """Random weights of the smoke networks, as training leaves them."""
    return publish_random_weights(create_run(tmp_path_factory.mktemp("runs"), "smoke"))
