"""A run's folder and those of its attempts: every path in them, and how they are made."""

import json
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from stat import S_IMODE
from typing import Any

from trainer.atomic_files import RunDirError, read_json, sync_to_disk, write_json
from trainer.checkpoint_dir import (
    ANY_CHECKPOINT,
    DRAFT,
    REPLACED,
    Checkpoint,
    Incomplete,
    read_checkpoint,
    step_and_epoch,
)
from trainer.manifest import MANIFEST, Manifest, checkpoint_name

# A rank writes its trace at these, by their numbers in Linux: SIGUSR2 and SIGRTMIN. TERM and USR1
# ask it to leave.
SHORT_TRACE_SIGNAL = 12
FULL_TRACE_SIGNAL = 34

_RUN_NAME = re.compile(r"(\d{3,})-(.+)")


@dataclass(frozen=True)
class AttemptDir:
    """One start of a run's processes."""

    path: Path

    @property
    def number(self) -> int:
        """1 for the launch, 2 for the first resume."""
        return int(self.path.name)

    @property
    def plan(self) -> Path:
        """The plan: commands and nodes of this attempt."""
        return self.path / "plan.json"

    @property
    def exit(self) -> Path:
        """The end of the attempt; absent while it runs."""
        return self.path / "exit.json"

    @property
    def stopped(self) -> Path:
        """The signal at which all ranks saved and left, and the checkpoint."""
        return self.path / "stopped.json"

    @property
    def config_json(self) -> Path:
        """The settings of this attempt; a later one may have been resumed with others."""
        return self.path / "config.json"

    @property
    def decision(self) -> Path:
        """The supervisor's decision about the attempt: cause, how far it had come, what follows."""
        return self.path / "decision.json"

    @property
    def job(self) -> Path:
        """The Slurm job that the attempt runs in; absent where ssh started it."""
        return self.path / "slurm.json"

    @property
    def job_script(self) -> Path:
        """The script that was submitted to Slurm."""
        return self.path / "slurm.sh"

    @property
    def job_log(self) -> Path:
        """Output of the job's batch shell."""
        return self.path / "slurm.log"

    @property
    def rehearsal(self) -> Path:
        """The bucket to rehearse; absent where the attempt trains."""
        return self.path / "rehearsal.json"

    @property
    def rehearsed(self) -> Path:
        """Seconds and memory of that bucket, once its steps are done."""
        return self.path / "rehearsed.json"

    @property
    def superseded_checkpoints(self) -> Path:
        """Checkpoints of earlier attempts beyond the step from which this one went on."""
        return self.path / "superseded_checkpoints"

    @property
    def superseded_metrics(self) -> Path:
        """Metrics of earlier attempts beyond the step from which this one went on."""
        return self.path / "superseded_metrics.jsonl"

    def node_script(self, node: str) -> Path:
        """The script that the node runs."""
        return self.path / f"{node}.sh"

    def node_log(self, node: str) -> Path:
        """Everything that a node's processes printed."""
        return self.path / f"{node}.log"

    def node_exit(self, node: str) -> Path:
        """The exit code of a node's launcher, written when it ends."""
        return self.path / f"{node}.exit"

    @property
    def trained(self) -> Path:
        """One line for each step up to the last save: the micro batches of its epoch, by rank."""
        return self.path / "trained.jsonl"

    def skipped_clips(self, rank: int) -> Path:
        """One line for each clip that a rank could not read."""
        return self.path / f"skipped_clips-{rank}.jsonl"

    def rank_failure(self, rank: int) -> Path:
        """A rank's own account of its failure."""
        return self.path / f"rank-{rank}.json"

    def rank_trace(self, rank: int, *, full: bool = False) -> Path:
        """A rank's collectives and stacks, written when a signal asks for it."""
        return self.path / "traces" / f"rank-{rank}{'-full' if full else ''}.json"

    @property
    def evidence(self) -> Path:
        """Folders of what was seen of a hang before anything was done about it."""
        return self.path / "evidence"

    def rank_failures(self) -> list[dict[str, Any]]:
        """Every rank's own account of its failure, the earliest first; damaged ones left out."""
        found = []
        for path in self.path.glob("rank-*.json"):
            with suppress(OSError, RunDirError):  # half written at a power cut
                found.append(read_json(path))
        # where files are dated by whole seconds the ranks' own clocks decide within one
        return sorted(found, key=lambda one: (one["time_unix_s"], one.get("own_time_unix_s", 0.0)))


@dataclass(frozen=True)
class RunDir:
    """The folder of one training from `launch` on, such as `runs/007-stage2`."""

    path: Path

    @property
    def name(self) -> str:
        """`007-stage2`."""
        return self.path.name

    @property
    def run_json(self) -> Path:
        """The run's origin: stage, start weights, command, code version."""
        return self.path / "run.json"

    @property
    def config_json(self) -> Path:
        """The resolved settings, all that the trainer reads."""
        return self.path / "config.json"

    @property
    def description(self) -> tuple[Path, ...]:
        """The files that say what the run is, and of use where its checkpoints are not."""
        return self.run_json, self.config_json, self.metrics, self.validation

    @property
    def lock(self) -> Path:
        """Held by whoever starts an attempt, so that two starts never overlap."""
        return self.path / ".lock"

    @property
    def heartbeat(self) -> Path:
        """The last step and when it ended; replaced whole by rank 0."""
        return self.path / "heartbeat.json"

    @property
    def metrics(self) -> Path:
        """One line for each logged step."""
        return self.path / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        """One line for each validation: its step, and the loss of each clip."""
        return self.path / "validation.jsonl"

    @property
    def events(self) -> Path:
        """One line for each event of the run; appended by whoever launches, follows or kills it."""
        return self.path / "events.jsonl"

    @property
    def supervisor(self) -> Path:
        """The lease of the run's supervisor: which process acts, and its last sign of life."""
        return self.path / "supervisor.json"

    @property
    def supervisor_log(self) -> Path:
        """Output of the run's supervisors."""
        return self.path / "supervisor.log"

    @property
    def bucket_seconds(self) -> Path:
        """Seconds of a micro batch of each bucket, as measured so far."""
        return self.path / "bucket_seconds.json"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints_folder(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def wandb_id(self) -> Path:
        """The id of the run's one Weights & Biases run."""
        return self.path / "wandb_id"

    @property
    def wandb_step(self) -> Path:
        """The last step that was sent to Weights & Biases."""
        return self.path / "wandb_step"

    @property
    def wandb_lock(self) -> Path:
        """Held by whoever sends videos to Weights & Biases: rank 0, or after the end a program."""
        return self.path / ".wandb.lock"

    @property
    def samples(self) -> Path:
        """Generated videos."""
        return self.path / "samples"

    @property
    def evaluations(self) -> Path:
        """Videos of every checkpoint, by preset and step, and the gallery that shows them."""
        return self.path / "eval"

    @property
    def gallery(self) -> Path:
        """The page that shows these videos."""
        return self.evaluations / "index.html"

    @property
    def gallery_data(self) -> Path:
        """The list that the page shows; a script, since a page from a disk reads nothing else."""
        return self.evaluations / "gallery.js"

    def evaluation(self, preset: str, global_step: int) -> Path:
        """The folder of one checkpoint's videos by one preset."""
        return self.evaluations / preset / str(global_step)

    def evaluation_result(self, preset: str, global_step: int) -> Path:
        """The list of these videos, written last: without it they are not complete."""
        return self.evaluation(preset, global_step) / "result.json"

    def evaluation_progress(self, preset: str, global_step: int) -> Path:
        """The same list while videos are missing."""
        return self.evaluation(preset, global_step) / "progress.json"

    @property
    def sent_evaluations(self) -> Path:
        """Videos that Weights & Biases got, one a line."""
        return self.evaluations / "sent.jsonl"

    def evaluation_results(self) -> list[Path]:
        """Every result, by preset and step."""
        return _by_preset_and_step(self.evaluations.glob("*/*/result.json"))

    def evaluations_begun(self) -> list[Path]:
        """Every result and, where there is none, the list of the videos so far."""
        whole = {path.parent: path for path in self.evaluation_results()}
        begun = {path.parent: path for path in self.evaluations.glob("*/*/progress.json")}
        return _by_preset_and_step((begun | whole).values())

    def unreadable_clips(self) -> dict[str, str]:
        """Clips that any rank of any attempt could not read: a reason by path."""
        found = {}
        for file in sorted(self.path.glob("attempts/*/skipped_clips-*.jsonl")):
            for line in file.read_text().splitlines():
                with suppress(ValueError):  # a crash left half a line
                    clip = json.loads(line)
                    found[clip["path"]] = clip["reason"]
        return found

    def attempts(self) -> list[AttemptDir]:
        """Every attempt, oldest first."""
        folders = [path for path in (self.path / "attempts").glob("*") if path.name.isdecimal()]
        return [AttemptDir(path) for path in sorted(folders, key=lambda path: int(path.name))]

    def attempt(self, number: int) -> AttemptDir:
        """The folder of an attempt, there or not."""
        return AttemptDir(self.path / "attempts" / str(number))

    def new_attempt(self) -> AttemptDir:
        """The next attempt's folder; made exclusively, so two starts never share one."""
        while True:
            past = self.attempts()
            number = past[-1].number + 1 if past else 1
            path = self.path / "attempts" / str(number)
            path.parent.mkdir(exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return AttemptDir(path)

    def checkpoints(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return [found for found in self._by_step() if isinstance(found, Checkpoint)]

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest complete checkpoint; RunDirError if a newer folder cannot be read just now."""
        for found in reversed(self._by_step()):
            if isinstance(found, Checkpoint):
                return found
            if found.is_unknown:
                raise RunDirError(f"{found.path} may be complete: {found.reason}")
        return None

    def incomplete(self) -> dict[Path, str]:
        """Checkpoint folders that are not complete, and why."""
        found = self._by_step()
        return {one.path: one.reason for one in found if isinstance(one, Incomplete)}

    def unknown(self) -> list[Incomplete]:
        """Checkpoint folders that cannot be read just now, and may be complete."""
        found = self._by_step()
        return [one for one in found if isinstance(one, Incomplete) and one.is_unknown]

    def steps_of_saves(self) -> tuple[set[int], set[int]]:
        """Global steps of the checkpoints being written and of those published, by name alone."""
        names = [path.name for path in self.checkpoints_folder.glob(f"*{ANY_CHECKPOINT}")]
        drafts = {name.removeprefix(DRAFT) for name in names if name.startswith(DRAFT)}
        published = set(names) - {f"{DRAFT}{name}" for name in drafts}
        return _steps(drafts), _steps(published)

    def _by_step(self) -> list[Checkpoint | Incomplete]:
        found = [
            (position, path)
            for path in self.checkpoints_folder.glob(ANY_CHECKPOINT)
            if (position := step_and_epoch(path.name))
        ]
        return [read_checkpoint(path) for _, path in sorted(found)]

    def draft_path(self, epoch: int, global_step: int) -> Path:
        """The folder in which a checkpoint is written before it is complete."""
        return self.checkpoints_folder / f"{DRAFT}{checkpoint_name(epoch, global_step)}"

    def publish(self, draft: Path, manifest: Manifest) -> Checkpoint:
        """Declare a checkpoint complete: the very last thing that its writer does."""
        write_json(draft / MANIFEST, asdict(manifest))
        for folder in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
            sync_to_disk(folder)
        name = manifest.name
        final = self.checkpoints_folder / name
        replaced = draft.with_name(f"{REPLACED}{name}")
        shutil.rmtree(replaced, ignore_errors=True)  # what a crash left of it
        if final.exists():  # this step was saved before, by an attempt that was resumed earlier
            final.rename(replaced)
        draft.rename(final)
        sync_to_disk(self.checkpoints_folder)
        shutil.rmtree(replaced, ignore_errors=True)
        return Checkpoint(final, manifest)

    def beat(self, global_step: int, total_steps: int, attempt: int) -> None:
        """Say that a step of an attempt ended now."""
        values = {"global_step": global_step, "total_steps": total_steps, "attempt": attempt}
        write_json(self.heartbeat, {**values, "time_unix_s": time.time()}, durable=False)


def rehearsal_path(root: Path, stage: str) -> Path:
    """The folder of a rehearsal while it goes on; its result lies beside it, with `.json`."""
    return root / ".rehearsals" / stage


def run_of(folder: Path) -> RunDir:
    """The run among whose checkpoints or attempts a folder lies, if it lies in one."""
    return RunDir(folder.parent.parent)


def create_run(root: Path, stage: str) -> RunDir:
    """The next run's folder, such as `runs/008-stage3`; two launches never share a folder."""
    claims = root / ".numbers"  # a run's name has its stage too, so its number is claimed apart
    make_shared(claims)
    number = _run_number(next_path(root, stage))
    while True:
        run = RunDir(root / f"{number:03d}-{stage}")
        try:
            with suppress(PermissionError):  # claims of another user; the name is exclusive too
                (claims / f"{number:03d}").mkdir()
            run.path.mkdir()
        except FileExistsError:
            number += 1
            continue
        run.checkpoints_folder.mkdir()
        return run


def make_shared(folder: Path) -> None:
    """A folder for whoever may write in its parent, as several users share a folder of runs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir()
        with suppress(OSError):  # a file system without rights
            folder.chmod(S_IMODE(folder.parent.stat().st_mode))


def runs(root: Path) -> list[RunDir]:
    """Every run, oldest first."""
    return as_runs(path for path in root.glob("*-*") if path.is_dir())


def as_runs(folders: Iterable[Path]) -> list[RunDir]:
    """Those of these folders that have a run's name, oldest first."""
    found = [path for path in folders if _RUN_NAME.fullmatch(path.name)]
    return [RunDir(path) for path in sorted(found, key=_run_number)]


def next_path(root: Path, stage: str) -> Path:
    """The folder that `create_run` would make now."""
    taken = [*root.glob("*-*"), *(root / ".numbers").glob("*")]
    numbers = [_run_number(path) for path in taken]
    return root / f"{max([0, *numbers]) + 1:03d}-{stage}"


def _steps(names: Iterable[str]) -> set[int]:
    return {position[0] for name in names if (position := step_and_epoch(name))}


def _by_preset_and_step(paths: Iterable[Path]) -> list[Path]:
    numbered = [path for path in paths if path.parent.name.isdecimal()]
    return sorted(numbered, key=lambda path: (path.parts[-3], int(path.parent.name)))


def _run_number(path: Path) -> int:
    match = re.match(r"\d+", path.name)
    return int(match.group()) if match else 0
