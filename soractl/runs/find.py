"""Finding a run on disk, by number, name or folder."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.queue.record import newest_job
from soractl.remote.ssh_command import SshOptions
from soractl.runs.record import read_record
from soractl.runs.start_lock import is_starting
from soractl.terminal.hints import to_type
from trainer.run_dir import AttemptDir, RunDir, run_of, runs

LATEST = "latest"


def find_run(root: Path, name: str) -> RunDir:
    """The run named by `latest`, `7`, `007-stage2` or its folder; exit code 6 if there is none.

    `latest` passes over runs that never began, as a launch leaves them that was cut off.
    """
    folder = Path(name)
    if RunDir(folder).run_json.is_file():
        return RunDir(folder)
    known = runs(root)
    if name == LATEST and (begun := next(filter(_has_begun, reversed(known)), None)):
        return begun
    return choose_run(known, name, str(root))


def choose_run(known: Sequence[RunDir], name: str, root: str) -> RunDir:
    """The one of these runs (oldest first) with this name; exit code 6 if there is none."""
    if not known:
        raise no_run(root)
    if name == LATEST:
        return known[-1]
    same = [run for run in known if name in (run.name, run.name.partition("-")[0])]
    same += [run for run in known if name.isdecimal() and int(name) == _number(run)]
    if same:
        return same[-1]
    raise SoractlError(
        f"no run {name} in {root}/",
        hint=_suggestion(name, known),
        exit_code=ExitCode.NOTHING_SUITABLE,
    )


def no_run(root: str) -> SoractlError:
    """The error of a folder without any run; exit code 6."""
    return SoractlError(
        f"there is no run in {root}/",
        hint=f"`{to_type('launch', 'STAGE')}` starts one",
        exit_code=ExitCode.NOTHING_SUITABLE,
    )


def runs_of_stage(root: Path, stage: str) -> list[RunDir]:
    """The runs of one stage, oldest first."""
    return [run for run in runs(root) if stage_of(run) == stage]


def run_of_checkpoint(path: Path) -> RunDir | None:
    """The run that a checkpoint's folder belongs to, if it lies in one."""
    run = run_of(path)
    return run if path.parent == run.checkpoints_folder and run.run_json.is_file() else None


def stage_of(run: RunDir) -> str:
    """The stage that a run trains."""
    return run.name.partition("-")[2]


def last_attempt(run: RunDir) -> AttemptDir | None:
    """The newest attempt that was planned; one without a plan never started anything."""
    planned = [attempt for attempt in run.attempts() if attempt.plan.is_file()]
    return planned[-1] if planned else None


def ssh_options(run: RunDir) -> SshOptions:
    """SSH options of a run's newest attempt."""
    attempt = last_attempt(run)
    return read_record(attempt).ssh if attempt else SshOptions()


def _has_begun(run: RunDir) -> bool:
    """An attempt of it was started, is now, or waits; or it has a checkpoint from elsewhere."""
    return bool(last_attempt(run) or is_starting(run) or newest_job(run) or run.checkpoints())


def _number(run: RunDir) -> int:
    return int(run.name.partition("-")[0])


def _suggestion(name: str, known: Sequence[RunDir]) -> str:
    names = [run.name for run in known]
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"the newest are: {', '.join(names[-5:])}"
