"""`ckpt adopt`: a checkpoint that the reference wrote becomes the first one of a new run."""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.remote.nodes import this_machine
from soractl.remote.requests import Remote, Request
from soractl.terminal.hints import to_type
from trainer.atomic_files import write_json
from trainer.config import TrainConfig, load_stage
from trainer.run_dir import RunDir, create_run, next_path
from trainer.settings import dump

DEADLINE_S = 6 * 3600.0  # 7 GB from and to a busy file server


@dataclass(frozen=True)
class Adoption:
    """A folder that fits a stage, and the run that it becomes."""

    folder: Path
    stage: str
    config: TrainConfig
    run: RunDir
    found: Mapping[str, Any]  # epoch, step, global_step, and the loaded tensors of each part
    is_done: bool = False


def plan(folder: Path, stage: str, root: Path, remote: Remote) -> Adoption:
    """Check every tensor's name and shape; SoractlError says what does not fit."""
    folder = folder.absolute()
    for name in ("model", "running_states.json"):
        if not (folder / name).exists():
            raise SoractlError(
                f"{folder} is no checkpoint of the reference: {name} is not there",
                hint="name the folder epochE-global_stepN itself; "
                f"`{to_type('launch', 'STAGE', '--init-from', 'PATH')}` takes weights alone",
            )
    config = load_stage(stage).config
    found = _ask_trainer(folder, config, None, remote)
    return Adoption(folder, stage, config, RunDir(next_path(root, stage)), found)


def adopt(planned: Adoption, remote: Remote) -> Adoption:
    """Make the run, with the checkpoint in it or not at all."""
    run = create_run(planned.run.path.parent, planned.stage)
    values: dict[str, Any] = {
        "stage": planned.stage,
        "start": {"kind": "adopted", "path": str(planned.folder)},
        "command": f"soractl ckpt adopt {planned.folder} {planned.stage}",
        "commit": None,
        "created_unix_s": time.time(),
        "nodes": [],
        "hostfile": None,
    }
    write_json(run.config_json, dump(planned.config))
    try:
        found = _ask_trainer(planned.folder, planned.config, run, remote)
    except BaseException:
        shutil.rmtree(run.path)
        raise
    write_json(run.run_json, values)
    return replace(planned, run=run, found=found, is_done=True)


def _ask_trainer(
    folder: Path, config: TrainConfig, run: RunDir | None, remote: Remote
) -> dict[str, Any]:
    argv = [sys.executable, "-m", "trainer.adopt", str(folder), *([str(run.path)] if run else [])]
    result = remote(this_machine(), Request(tuple(argv), json.dumps(dump(config))), DEADLINE_S)
    if result.ok:
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return found
    reason = result.reason
    if "No module named" in reason:
        reason += "; this needs the trainer's environment: `make install`"
    is_refused = any(line.startswith("error: ") for line in result.stderr.splitlines())
    raise SoractlError(reason, exit_code=ExitCode.BAD_REQUEST if is_refused else ExitCode.FAILED)
