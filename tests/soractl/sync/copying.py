"""What tests of copying share: a lab with a far end, and what must be there afterwards."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run

REPOSITORY = Path(__file__).parent.parent.parent.parent
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
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == code, stdout + stderr
        return stdout, stderr


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


def incoming(copy):
    """What lies in incoming folders: path below `checkpoints` and bytes."""
    found = (file for file in copy.checkpoints_folder.glob(".incoming-*/**/*") if file.is_file())
    return {str(file.relative_to(copy.checkpoints_folder)): file.stat().st_size for file in found}
