"""Start points: the source of an attempt's first weights, and the checkpoints passed over."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from soractl.errors import ExitCode, SoractlError
from soractl.runs.find import runs_of_stage
from soractl.terminal.hints import to_type
from trainer.atomic_files import read_json
from trainer.checkpoint_dir import ANY_CHECKPOINT, Checkpoint, read_checkpoint, step_and_epoch
from trainer.config import TrainConfig
from trainer.manifest import MANIFEST
from trainer.run_dir import RunDir, run_of

_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
_FILES = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class StartPoint:
    """State that the trainer loads before its first step."""

    kind: Literal["fresh", "init_from", "resume"]
    path: Path | None = None
    missing: str | None = None  # why there is nothing to start from
    passed_over: Mapping[Path, str] = field(default_factory=dict)  # newer, but not complete
    reset_data: bool = False  # begin the epoch anew: the position in it is of other data

    def as_json(self) -> dict[str, Any]:
        """As `plan.json` says it."""
        return {
            "kind": self.kind,
            "path": str(self.path) if self.path else None,
            "reset_data": self.reset_data,
        }


def for_launch(
    config: TrainConfig, root: Path, workdir: Path, init_from: str | None, *, ema: bool = False
) -> StartPoint:
    """The weights that were named, else those of the stage before, else none at all.

    With `ema`, a checkpoint's averages instead of its weights.
    """
    if init_from:
        start = _named(workdir, init_from)
    elif config.after:
        start = _after(config.after, root)
    elif config.init_from:
        start = _named(workdir, config.init_from)
    else:
        start = StartPoint("fresh")
    return _averages_of(start) if ema else _weights_of(start)


def for_resume(run: RunDir) -> StartPoint:
    """The newest complete checkpoint of a run; exit code 6 says what was looked at."""
    complete = run.newest_checkpoint()
    incomplete = run.incomplete()
    if complete is None:
        seen = [f"{path.name}: {why}" for path, why in incomplete.items()]
        found = "; ".join(seen) or f"{run.checkpoints_folder} is empty"
        raise SoractlError(
            f"{run.path} has no complete checkpoint: {found}",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    newest = _with_optimizer(complete)
    newer = {
        path: why for path, why in incomplete.items() if _step(path) >= newest.manifest.global_step
    }
    return StartPoint("resume", newest.path, passed_over=newer)


def for_restart(run: RunDir) -> StartPoint:
    """As `for_resume`; a run without any complete checkpoint begins again as it began."""
    attempts = run.attempts()
    if run.newest_checkpoint() or not attempts:
        return for_resume(run)
    first = read_json(attempts[0].plan)["start"]
    path = Path(first["path"]) if first["path"] else None
    return StartPoint(first["kind"], path, reset_data=first["reset_data"])


def from_checkpoint(path: Path) -> StartPoint:
    """Resume from exactly this folder; exit code 6 when it is not complete."""
    if not path.exists():
        there = run_of(path).checkpoints()
        raise SoractlError(
            f"{path} does not exist",
            hint=f"the newest complete checkpoint is {there[-1].path}" if there else None,
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    found = read_checkpoint(path)
    if isinstance(found, Checkpoint):
        return StartPoint("resume", _with_optimizer(found).path)
    raise SoractlError(
        f"{path} is not a complete checkpoint: {found.reason}", exit_code=ExitCode.NOTHING_SUITABLE
    )


def _with_optimizer(checkpoint: Checkpoint) -> Checkpoint:
    if "optimizer" in checkpoint.manifest.left_out:
        raise SoractlError(
            f"{checkpoint.path} holds no optimizer, so nothing can resume from it",
            hint=f"`{to_type('sync', '--with-optimizer')}` copies all of it; "
            f"`{to_type('launch', 'STAGE', '--init-from', 'PATH')}` needs the weights alone",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    return checkpoint


def _averages_of(start: StartPoint) -> StartPoint:
    if start.kind == "fresh":
        raise SoractlError(
            "--ema: this stage starts from random weights",
            hint="name the checkpoint that holds averages with --init-from PATH",
        )
    if start.path is None:
        return start
    for name in ("ema", "ema.pt"):  # ours; the reference's
        if (start.path / name).exists():
            return replace(start, path=start.path / name)
    return StartPoint("init_from", missing=f"averages in {start.path}: neither ema/ nor ema.pt")


def _weights_of(start: StartPoint) -> StartPoint:
    found = read_checkpoint(start.path) if start.path and start.path.is_dir() else None
    if isinstance(found, Checkpoint) and "model" in found.manifest.left_out:
        why = f"the weights in {start.path}, a copy without them; `--ema` takes its averages"
        return StartPoint("init_from", missing=why)
    return start


def _after(stage: str, root: Path) -> StartPoint:
    candidates = runs_of_stage(root, stage)
    for run in reversed(candidates):
        if newest := run.newest_checkpoint():
            return StartPoint("init_from", newest.path)
    looked = ", ".join(run.name for run in candidates) or f"no run of {stage} in {root}/"
    why = f"a complete checkpoint of {stage} (looked at: {looked})"
    return StartPoint("init_from", missing=why)


def _named(workdir: Path, weights: str) -> StartPoint:
    path = workdir / weights
    if not path.exists():
        if _is_repository(weights) and not path.parent.exists():
            return StartPoint("init_from", Path(weights))  # the ranks look in their cache
        return StartPoint("init_from", missing=f"{path} does not exist")
    run = RunDir(path)
    if run.checkpoints_folder.is_dir():
        if newest := run.newest_checkpoint():
            return StartPoint("init_from", newest.path)
        return StartPoint("init_from", missing=f"{path} has no complete checkpoint")
    if _is_ours(path):
        found = read_checkpoint(path)
        if not isinstance(found, Checkpoint):
            return StartPoint("init_from", missing=f"{path} is not complete: {found.reason}")
    elif there := list(path.glob(ANY_CHECKPOINT)):
        last = max(there, key=lambda folder: folder.stat().st_mtime)
        why = f"the checkpoint's name: {path} holds several, the newest is {last}"
        return StartPoint("init_from", missing=why)
    return StartPoint("init_from", path)


def _is_repository(weights: str) -> bool:
    return bool(_REPOSITORY.fullmatch(weights)) and not weights.endswith(_FILES)


def _step(path: Path) -> int:
    position = step_and_epoch(path.name)
    return position[0] if position else -1


def _is_ours(path: Path) -> bool:
    run = run_of(path)
    in_a_run = path.parent == run.checkpoints_folder and run.run_json.is_file()
    return in_a_run or (path / MANIFEST).exists()
