"""Where everything about a run lies on disk, and when a checkpoint is complete."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

MANIFEST = "checkpoint.json"
_READER = ".read-by-"
_READER_MARK_HOLDS_S = 86_400
_RUN_NAME = re.compile(r"(\d{3,})-(.+)")
_CHECKPOINT_NAME = re.compile(r"epoch(\d+)-global_step(\d+)")


class RunDirError(ValueError):
    """Something about a run's folder is not as it must be; the message names the path."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `checkpoint.json` says: written last, so it says too that the checkpoint is complete."""

    epoch: int
    step: int  # optimizer steps done in this epoch
    global_step: int  # optimizer steps done since the run began
    world_size: int
    consumed: tuple[tuple[int, int], ...]  # (ranks, micro steps) of this epoch so far, in order
    data_fingerprint: Mapping[str, str]  # of everything that decides an epoch's order
    costs: Mapping[str, float] = field(default_factory=dict)  # of buckets, likewise; see costs.py
    epoch_is_over: bool = False  # then costs and data_fingerprint are the next epoch's
    recent_grad_norms: tuple[float, ...] = ()  # of the last accepted steps, the oldest first
    skipped_steps: int = 0  # since the run began
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # path: {bytes, sha256}
    left_out: tuple[str, ...] = ()  # the folders that a copy was made without


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """`epoch0-global_step200`."""
        return self.path.name

    @property
    def model(self) -> Path:
        """The weights as they are trained: safetensors files and an index."""
        return self.path / "model"

    @property
    def ema(self) -> Path:
        """The averaged weights, fp32: safetensors files and an index."""
        return self.path / "ema"

    @property
    def optimizer(self) -> Path:
        """Each rank's fp32 masters and moments."""
        return self.path / "optimizer"

    def reader_mark(self, reader: str) -> Path:
        """The file that keeps it from being removed while `reader` reads it."""
        return self.path / f"{_READER}{reader}"

    @contextmanager
    def being_read(self, reader: str = "") -> Iterator[None]:
        """Keep it from being removed while it is read, by this process or by a named reader.

        Where nothing can be written there is no mark, and FileNotFoundError if it is gone already.
        """
        mark = self.reader_mark(reader or f"{socket.gethostname()}-{os.getpid()}")
        try:
            mark.touch()
        except FileNotFoundError:
            raise
        except OSError:  # read-only, others' folder, or a full disk
            yield
            return
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def readers(self) -> list[str]:
        """Who reads it; a mark of more than a day was left by a crash."""
        found = []
        for mark in self.path.glob(f"{_READER}*"):
            with suppress(FileNotFoundError):  # its reader is done just now
                if time.time() - mark.stat().st_mtime < _READER_MARK_HOLDS_S:
                    found.append(mark.name.removeprefix(_READER))
        return sorted(found)

    def remove(self) -> None:
        """Delete it; at no moment does half of it stand under its name."""
        doomed = self.path.with_name(f".removed-{self.name}")
        shutil.rmtree(doomed, ignore_errors=True)  # what a crash left of it
        self.path.rename(doomed)
        shutil.rmtree(doomed)


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
        """What was started where."""
        return self.path / "plan.json"

    @property
    def exit(self) -> Path:
        """How the attempt ended; absent while it runs."""
        return self.path / "exit.json"

    @property
    def stopped(self) -> Path:
        """The signal at which all ranks saved and left, and the checkpoint."""
        return self.path / "stopped.json"

    @property
    def config_json(self) -> Path:
        """The settings of this attempt; a later one may have been resumed with others."""
        return self.path / "config.json"

    def node_script(self, node: str) -> Path:
        """What the node was told to run."""
        return self.path / f"{node}.sh"

    def node_log(self, node: str) -> Path:
        """Everything that a node's processes printed."""
        return self.path / f"{node}.log"

    def node_exit(self, node: str) -> Path:
        """The exit code of a node's launcher, written when it ends."""
        return self.path / f"{node}.exit"

    def skipped_clips(self, rank: int) -> Path:
        """One line for each clip that a rank could not read."""
        return self.path / f"skipped_clips-{rank}.jsonl"

    def rank_failure(self, rank: int) -> Path:
        """Why a rank ended badly, in its own words."""
        return self.path / f"rank-{rank}.json"

    def rank_failures(self) -> list[dict[str, Any]]:
        """Every rank's own account of its failure, the earliest first."""
        found = [read_json(path) for path in self.path.glob("rank-*.json")]
        return sorted(found, key=lambda failure: float(failure["time_unix_s"]))


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
        """What was started: stage, start weights, command, code version."""
        return self.path / "run.json"

    @property
    def config_json(self) -> Path:
        """The resolved settings, all that the trainer reads."""
        return self.path / "config.json"

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
    def bucket_seconds(self) -> Path:
        """What a micro batch of each bucket took, as measured so far."""
        return self.path / "bucket_seconds.json"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints_folder(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Generated videos."""
        return self.path / "samples"

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

    def incomplete(self) -> dict[Path, str]:
        """Checkpoint folders that are not complete, and why."""
        return dict(found for found in self._by_step() if not isinstance(found, Checkpoint))

    def _by_step(self) -> list["Checkpoint | tuple[Path, str]"]:
        folders = [path for path in self.checkpoints_folder.glob("*") if _step_of(path)]
        return [read_checkpoint(path) for path in sorted(folders, key=_step_of)]

    def draft_path(self, epoch: int, global_step: int) -> Path:
        """Where a checkpoint is written before it is complete."""
        return self.checkpoints_folder / f".draft-epoch{epoch}-global_step{global_step}"

    def publish(self, draft: Path, manifest: Manifest) -> Checkpoint:
        """Declare a checkpoint complete: the very last thing that its writer does."""
        write_json(draft / MANIFEST, asdict(manifest))
        for folder in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
            sync_to_disk(folder)
        name = f"epoch{manifest.epoch}-global_step{manifest.global_step}"
        final = self.checkpoints_folder / name
        replaced = draft.with_name(f".replaced-{name}")
        shutil.rmtree(replaced, ignore_errors=True)  # what a crash left of it
        if final.exists():  # this step was saved before, by an attempt that was resumed earlier
            final.rename(replaced)
        draft.rename(final)
        sync_to_disk(self.checkpoints_folder)
        shutil.rmtree(replaced, ignore_errors=True)
        return Checkpoint(final, manifest)

    def beat(self, global_step: int, total_steps: int) -> None:
        """Say that a step ended now."""
        values = {"global_step": global_step, "total_steps": total_steps}
        write_json(self.heartbeat, {**values, "time_unix_s": time.time()}, durable=False)


def create_run(root: Path, stage: str) -> RunDir:
    """The next run's folder, such as `runs/008-stage3`; two launches never share a number."""
    claims = root / ".numbers"  # a run's name has its stage too, so its number is claimed apart
    claims.mkdir(parents=True, exist_ok=True)
    number = _run_number(next_path(root, stage))
    while True:
        try:
            (claims / f"{number:03d}").mkdir()
        except FileExistsError:
            number += 1
            continue
        run = RunDir(root / f"{number:03d}-{stage}")
        run.path.mkdir()
        run.checkpoints_folder.mkdir()
        return run


def runs(root: Path) -> list[RunDir]:
    """Every run, oldest first."""
    return as_runs(path for path in root.glob("*-*") if path.is_dir())


def as_runs(folders: Iterable[Path]) -> list[RunDir]:
    """Those of these folders that have a run's name, oldest first."""
    found = [path for path in folders if _RUN_NAME.fullmatch(path.name)]
    return [RunDir(path) for path in sorted(found, key=_run_number)]


def superseded(
    checkpoints: Sequence[Checkpoint], keep_last: int, keep_every_steps: int
) -> list[Checkpoint]:
    """Which of these (oldest first) may go; `keep_last` = 0 keeps all."""
    return [
        checkpoint
        for checkpoint in checkpoints[: -keep_last if keep_last else 0]
        if not (keep_every_steps and checkpoint.manifest.global_step % keep_every_steps == 0)
        and not checkpoint.readers()
    ]


def next_path(root: Path, stage: str) -> Path:
    """The folder that `create_run` would make now."""
    taken = [*root.glob("*-*"), *(root / ".numbers").glob("*")]
    numbers = [_run_number(path) for path in taken]
    return root / f"{max([0, *numbers]) + 1:03d}-{stage}"


def read_checkpoint(path: Path) -> "Checkpoint | tuple[Path, str]":
    """A folder as a complete checkpoint, or (folder, why it is none)."""
    try:
        manifest = parse_manifest((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        return path, f"no {MANIFEST}"
    except ValueError as error:
        return path, str(error)
    sizes = {}
    for name in manifest.files:
        with suppress(FileNotFoundError, NotADirectoryError):  # it may be removed at this moment
            found = (path / name).stat()
            if S_ISREG(found.st_mode):
                sizes[name] = found.st_size
    fault = what_is_missing(manifest, sizes)
    return (path, fault) if fault else Checkpoint(path, manifest)


def parse_manifest(text: str | bytes) -> Manifest:
    """What a `checkpoint.json` says; ValueError if it is none."""
    try:
        values = json.loads(text)
        consumed = tuple((int(ranks), int(steps)) for ranks, steps in values["consumed"])
        left_out = tuple(str(name) for name in values.get("left_out", ()))
        norms = tuple(float(norm) for norm in values.get("recent_grad_norms", ()))
        lists = {"consumed": consumed, "left_out": left_out, "recent_grad_norms": norms}
        manifest = Manifest(**{**values, **lists})
        for facts in manifest.files.values():
            int(facts["bytes"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{MANIFEST} is not readable: {error}") from None
    return manifest


def what_is_missing(manifest: Manifest, sizes: Mapping[str, int]) -> str | None:
    """The first file that is not there in full, of files with these sizes in bytes."""
    for name, facts in manifest.files.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != int(facts["bytes"]):
            return f"{name} has {sizes[name]} of {facts['bytes']} bytes"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with one object; else RunDirError."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise RunDirError(f"{path} is damaged, it is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise RunDirError(f"{path} is damaged, it holds no JSON object")
    return values


def write_json(path: Path, values: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write aside, then rename: no reader sees half a file; `durable` outlives a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    with draft.open("w") as file:
        json.dump(values, file, indent=2)
        file.write("\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(path)


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add one line for each row, in one write: all of them, or on a full disk none."""
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        if file.write(text) < len(text):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _run_number(path: Path) -> int:
    match = re.match(r"\d+", path.name)
    return int(match.group()) if match else 0


def _step_of(path: Path) -> tuple[int, ...]:
    """(global_step, epoch) of a checkpoint's folder; empty for any other."""
    match = _CHECKPOINT_NAME.fullmatch(path.name)
    return (int(match[2]), int(match[1])) if match else ()


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and checksum, as a manifest has them."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": checksum}


def sync_to_disk(path: Path) -> None:
    """Return when a file or folder would outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
