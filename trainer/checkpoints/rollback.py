"""A run's folder is rolled back to the step where an attempt begins: drafts and later steps go."""

import json
import math
import shutil

from trainer.atomic_files import read_json, write_json
from trainer.checkpoint_dir import DRAFT, REMOVED, REPLACED
from trainer.run_dir import AttemptDir, RunDir


def roll_back_to(run: RunDir, attempt: AttemptDir, global_step: int) -> None:
    """Make a run's folder say what is true at `global_step`, where the attempt begins.

    Steps and checkpoints past it will be made again, so they move to the attempt's folder; drafts
    of checkpoints go. Nothing that was complete is lost. The attempt's settings become the run's
    only now, so that those of a resume that was refused are never the next one's.
    """
    write_json(run.config_json, read_json(attempt.config_json))
    _finish_or_drop_drafts(run)
    _set_aside_checkpoints(run, attempt, global_step)
    _set_aside_metrics(run, attempt, global_step)


def _finish_or_drop_drafts(run: RunDir) -> None:
    for replaced in run.checkpoints_folder.glob(f"{REPLACED}*"):
        final = replaced.with_name(replaced.name.removeprefix(REPLACED))
        if not final.exists():  # the crash came between two renames
            replaced.rename(final)
    for prefix in (DRAFT, REMOVED, REPLACED):
        for leftover in run.checkpoints_folder.glob(f"{prefix}*"):
            shutil.rmtree(leftover)


def _set_aside_checkpoints(run: RunDir, attempt: AttemptDir, global_step: int) -> None:
    for checkpoint in run.checkpoints():
        if checkpoint.manifest.global_step > global_step:
            aside = attempt.superseded_checkpoints
            aside.mkdir(exist_ok=True)
            checkpoint.path.rename(aside / checkpoint.name)


def _set_aside_metrics(run: RunDir, attempt: AttemptDir, global_step: int) -> None:
    if not run.metrics.exists():
        return
    lines = run.metrics.read_text().splitlines(keepends=True)
    later = [line for line in lines if _step_of(line) > global_step]
    if later:
        attempt.superseded_metrics.write_text("".join(later))
        draft = run.metrics.with_suffix(".draft")
        draft.write_text("".join(line for line in lines if _step_of(line) <= global_step))
        draft.replace(run.metrics)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["global_step"])
    except ValueError:  # half a line, from an attempt that was killed while it wrote
        return math.inf
