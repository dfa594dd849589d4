"""Checkpoints of a run on disk: list, verify, prune."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from soractl.checkpoints.verification import broken_files
from soractl.errors import ExitCode, SoractlError
from soractl.runs.find import find_run
from soractl.terminal.meter import BYTES, Meter, Show
from trainer.atomic_files import file_time, read_json
from trainer.checkpoint_dir import Checkpoint, read_checkpoint, superseded
from trainer.manifest import MANIFEST
from trainer.run_dir import RunDir


@dataclass(frozen=True)
class CheckpointRow:
    """A folder among a run's checkpoints."""

    path: Path
    incomplete: str | None = None  # why; then the rest is not known
    epoch: int | None = None
    global_step: int | None = None
    size_bytes: int | None = None
    age_s: float | None = None
    parts: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """The result of `ckpt verify`."""

    checkpoints: tuple[Checkpoint, ...]
    broken: Mapping[str, Mapping[str, str]]  # checkpoint: file: fault
    incomplete: Mapping[str, str]  # checkpoint: why

    @property
    def exit_code(self) -> ExitCode:
        """1 when anything is broken; a folder that never was complete is only named."""
        return ExitCode.FAILED if self.broken else ExitCode.OK


@dataclass(frozen=True)
class Rule:
    """Rule for checkpoints that stay; None = as the run's settings say."""

    keep_last: int | None = None
    keep_every: int | None = None  # steps


@dataclass(frozen=True)
class Pruned:
    """The result of `ckpt prune`."""

    run: RunDir
    removed: tuple[Checkpoint, ...]
    kept: tuple[Checkpoint, ...]
    keep_last: int
    keep_every: int
    dry_run: bool


@dataclass(frozen=True)
class Listing:
    """A run's checkpoints, oldest first."""

    run: RunDir
    rows: tuple[CheckpointRow, ...]


def listing(root: Path, name: str) -> Listing:
    """Every checkpoint of a run, and every incomplete folder; SoractlError for an unknown run."""
    run = find_run(root, name)
    now = file_time(run.path)
    rows = []
    for checkpoint in run.checkpoints():
        with suppress(FileNotFoundError):  # the trainer removed it meanwhile
            rows.append(_row(checkpoint, now))
    rows += [CheckpointRow(path, why) for path, why in run.incomplete().items()]
    return Listing(run, tuple(rows))


def latest(root: Path, name: str) -> Checkpoint:
    """The newest complete checkpoint of a run; exit code 6 when there is none."""
    run = find_run(root, name)
    newest = run.newest_checkpoint()
    if newest is None:
        raise _none_complete(str(run.path), {})
    return newest


def verify(root: Path, selected: str, show: Show) -> Verified:
    """Read every file of a run's checkpoints, or of one, and compare it with its checksum."""
    checkpoints, incomplete = _selected_checkpoints(root, selected)
    if not checkpoints:
        raise _none_complete(selected, incomplete)
    total = sum(checkpoint.manifest.size_bytes for checkpoint in checkpoints)
    meter = Meter(BYTES, total, show, what="checking")
    broken = {}
    for checkpoint in checkpoints:
        with checkpoint.being_read():
            faults = broken_files(checkpoint.path, checkpoint.manifest.files, meter.advance)
        if faults:
            broken[checkpoint.name] = faults
    return Verified(tuple(checkpoints), broken, incomplete)


def prune(root: Path, name: str, rule: Rule, *, dry_run: bool) -> Pruned:
    """Remove superseded checkpoints; a rule that is not given comes from the run's settings."""
    run = find_run(root, name)
    settings = read_json(run.config_json)["checkpoint"] if run.config_json.is_file() else {}
    last = _setting(rule.keep_last, settings.get("keep_last"), "--keep-last")
    every = _setting(rule.keep_every, settings.get("keep_every_steps"), "--keep-every")
    checkpoints = run.checkpoints()
    old = superseded(checkpoints, last, every)
    if not dry_run:
        for checkpoint in old:
            _remove(checkpoint)
    kept = tuple(checkpoint for checkpoint in checkpoints if checkpoint not in old)
    return Pruned(run, tuple(old), kept, last, every, dry_run)


def _remove(checkpoint: Checkpoint) -> None:
    try:
        with suppress(FileNotFoundError):  # a training that goes on removes them too
            checkpoint.remove()
    except OSError as error:
        raise SoractlError(
            f"{checkpoint.path} cannot be removed: {error.strerror}", exit_code=ExitCode.FAILED
        ) from None


def _none_complete(name: str, incomplete: Mapping[str, str]) -> SoractlError:
    seen = "".join(f"; {name}: {why}" for name, why in incomplete.items())
    return SoractlError(
        f"{name} has no complete checkpoint{seen}", exit_code=ExitCode.NOTHING_SUITABLE
    )


def _row(checkpoint: Checkpoint, now_s: float | None) -> CheckpointRow:
    manifest = checkpoint.manifest
    saved_s = (checkpoint.path / MANIFEST).stat().st_mtime
    return CheckpointRow(
        checkpoint.path,
        epoch=manifest.epoch,
        global_step=manifest.global_step,
        size_bytes=manifest.size_bytes,
        age_s=None if now_s is None else max(0.0, now_s - saved_s),
        parts=tuple(sorted({name.partition("/")[0] for name in manifest.files})),
        readers=tuple(checkpoint.readers()),
    )


def _selected_checkpoints(root: Path, selected: str) -> tuple[list[Checkpoint], dict[str, str]]:
    path = Path(selected)
    if not path.is_dir() or RunDir(path).run_json.is_file():
        run = find_run(root, selected)
        return run.checkpoints(), {path.name: why for path, why in run.incomplete().items()}
    found = read_checkpoint(path.absolute())
    if isinstance(found, Checkpoint):
        return [found], {}
    raise SoractlError(
        f"{path} is not a complete checkpoint: {found.reason}", exit_code=ExitCode.FAILED
    )


def _setting(given: int | None, configured: int | None, option: str) -> int:
    number = configured if given is None else given
    if number is None:
        raise SoractlError(
            "the run has no config.json that sets what to keep", hint=f"give {option}"
        )
    if number < 0:
        raise SoractlError(f"{option} {number} is less than 0")
    return int(number)
