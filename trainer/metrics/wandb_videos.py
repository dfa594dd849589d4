"""Videos of evaluated checkpoints, sent to the run's own W&B run by the process that writes it.

An evaluation leaves videos and a result in the run's folder; W&B gets them from rank 0, in a thread
beside the training: the first video takes seconds to send. What comes after the training's end is
sent by `trainer.upload`. A lock keeps the two apart.
"""

import errno
import fcntl
import json
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from trainer.atomic_files import RunDirError, append_jsonl, read_json
from trainer.metrics.wandb_files import media_in, offline_files
from trainer.run_dir import RunDir

log = logging.getLogger("trainer")

LOOK_EVERY_S = 10.0
_WAIT_S = 0.5
EVALUATIONS_S = 60.0  # for what came at the very end
_QUIET_S = 2.0  # a killed process's W&B writes what it was given for about a second more

_STILL_S = 30.0  # longer than that nobody waits for it
_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # a folder mounted without them

Key = tuple[str, int]  # the name in W&B, the global step


class EvalUploads:
    """Looks for new results until it is closed, and sends each video once.

    What was sent online, a journal in the run's folder says; what was logged offline, the files of
    all attempts say themselves: what a killed process did not get to disk is sent again.
    """

    def __init__(
        self,
        run: RunDir,
        session: Any,
        *,
        every_s: float = LOOK_EVERY_S,
        lock: IO[bytes] | None = None,
    ) -> None:
        self._run, self._session, self._every_s, self._lock = run, session, every_s, lock
        self._sent: set[Key] = set()
        self._axes: set[str] = set()
        self._warned: set[Path] = set()
        self._over = threading.Event()
        self._row_is_free = threading.Event()
        self._thread = threading.Thread(target=self._work, name="eval uploads", daemon=True)
        self._thread.start()

    def row_ended(self) -> None:
        """The training has logged a row: the next one takes the videos of one more checkpoint.

        Videos go into the rows that the training logs: a row of their own would count W&B's step
        past the training's, and W&B drops what comes for an earlier step.
        """
        self._row_is_free.set()

    def close(self, timeout_s: float | None = EVALUATIONS_S) -> None:
        """Everything that is there has been sent when this returns, or a minute has passed."""
        self._over.set()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            while self._lock is None:  # a program that sends the last attempt's videos ends soon
                self._lock = upload_lock(self._run)
                if self._lock is None and self._over.wait(_WAIT_S):
                    return
            with self._lock:
                self._send_all()
        except OSError as error:
            log.warning("videos of evaluations are not sent to W&B: %s", error)

    def _send_all(self) -> None:
        own = Path(self._session.dir).parent if self._session.offline else None
        self._sent |= _sent_before(self._run, own)
        while True:
            is_last = self._over.wait(self._every_s)
            for path in self._run.evaluation_results():
                try:
                    self._send(path)
                except (OSError, RunDirError, KeyError) as error:
                    self._warn(path, error)
            if is_last:
                return

    def _send(self, result_path: Path) -> None:
        """One row a checkpoint, with all its videos that were not sent before."""
        import wandb

        result = read_json(result_path)
        label, step = _label(result), int(result["global_step"])
        new = {key: one for key, one in _videos(result).items() if (key, step) not in self._sent}
        if not new:
            return
        self._define(label, new)
        row: dict[str, Any] = {
            key: _media(wandb, result_path.with_name(one["name"]), one["prompt"])
            for key, one in new.items()
        }
        self._row_is_free.clear()
        is_last = self._over.is_set()  # no row of the training follows
        self._session.log({**row, f"{label}/global_step": step}, commit=is_last)
        while not (is_last or self._row_is_free.wait(_WAIT_S)):
            if is_last := self._over.is_set():  # the training ended meanwhile
                self._session.log({}, commit=True)
        self._sent |= {(key, step) for key in new}
        if not self._session.offline:
            rows = [{"key": key, "global_step": step} for key in new]
            append_jsonl(self._run.sent_evaluations, rows)

    def _warn(self, path: Path, error: Exception) -> None:
        """Once for each result; it may be mended, so it is read again."""
        if path not in self._warned:
            log.warning("%s is not sent to W&B: %s", path, error)
            self._warned.add(path)

    def _define(self, label: str, keys: dict[str, Any]) -> None:
        """Each key by its exact name: of overlapping patterns W&B takes one at random."""
        for key in keys.keys() - self._axes:
            self._session.define_metric(key, step_metric=f"{label}/global_step")
            self._axes.add(key)


def _media(wandb: Any, path: Path, caption: str) -> Any:
    if path.suffix == ".png":
        return wandb.Image(str(path), caption=caption)
    return wandb.Video(str(path), format="mp4", caption=caption)


def upload_lock(run: RunDir) -> IO[bytes] | None:
    """The lock that whoever sends a run's videos holds until its end; None if another has it.

    A file system without locks grants it.
    """
    stream = run.wandb_lock.open("ab")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
    return stream


def unsent(run: RunDir) -> set[Key]:
    """Videos of complete results that W&B does not have; damaged results are left out."""
    found = set()
    for path in run.evaluation_results():
        with suppress(OSError, RunDirError, KeyError):
            result = read_json(path)
            found |= {(key, int(result["global_step"])) for key in _videos(result)}
    return found - _sent_before(run) if found else found


def _label(result: Mapping[str, Any]) -> str:
    return f"eval_{result['preset']}"


def _videos(result: Mapping[str, Any]) -> dict[str, Any]:
    """Videos of a result by their names in W&B."""
    return {f"{_label(result)}/{Path(one['name']).stem}": one for one in result["videos"]}


def _sent_before(run: RunDir, own: Path | None = None) -> set[Key]:
    """Media in offline files, once those of others stand still, and in the journal."""
    _wait_until_still(run.path / "wandb", own)
    sent = media_in(run.path / "wandb")
    if run.sent_evaluations.exists():
        for line in run.sent_evaluations.read_text().splitlines():
            with suppress(ValueError):  # half a line, of a process that was killed
                row = json.loads(line)
                sent.add((row["key"], int(row["global_step"])))
    return sent


def _wait_until_still(folder: Path, own: Path | None) -> None:
    """Return when no offline file but one's `own` has grown for a while."""
    give_up_s = time.monotonic() + _STILL_S
    before, now = None, _sizes(folder, own)
    while now and before != now and time.monotonic() < give_up_s:
        time.sleep(_QUIET_S)
        before, now = now, _sizes(folder, own)


def _sizes(folder: Path, own: Path | None) -> dict[Path, int]:
    files = [file for file in offline_files(folder) if file.parent != own]
    return {file: file.stat().st_size for file in files}
