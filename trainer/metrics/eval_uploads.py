"""Videos of evaluated checkpoints, sent to the run's own W&B run by the process that writes it.

An evaluation leaves videos and a result in the run's folder; W&B gets them from rank 0 alone, in a
thread beside the training: the first video takes seconds to send.
"""

import json
import logging
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.atomic_files import RunDirError, append_jsonl, read_json
from trainer.metrics.wandb_files import media_in
from trainer.run_dir import RunDir

log = logging.getLogger("trainer")

LOOK_EVERY_S = 10.0
_WAIT_S = 0.5
_END_S = 60.0  # for what came at the very end


class EvalUploads:
    """Looks for new results until it is closed, and sends each video once.

    Online, a journal in the run's folder says what was sent. Offline, the files of all attempts
    say it themselves: what a killed process did not get to disk is sent again.
    """

    def __init__(self, run: RunDir, session: Any, *, every_s: float = LOOK_EVERY_S) -> None:
        self._run, self._session, self._every_s = run, session, every_s
        self._sent: set[tuple[str, int]] = set()
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

    def close(self) -> None:
        """Everything that is there has been sent when this returns, or a minute has passed."""
        self._over.set()
        self._thread.join(_END_S)

    def _work(self) -> None:
        self._sent |= _sent_before(self._run, offline=bool(self._session.offline))
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
        label, step = f"eval_{result['preset']}", int(result["global_step"])
        videos = {f"{label}/{Path(one['name']).stem}": one for one in result["videos"]}
        new = {key: one for key, one in videos.items() if (key, step) not in self._sent}
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


def _sent_before(run: RunDir, *, offline: bool) -> set[tuple[str, int]]:
    if offline:
        return media_in(run.path / "wandb")
    if not run.sent_evaluations.exists():
        return set()
    sent = set()
    for line in run.sent_evaluations.read_text().splitlines():
        with suppress(ValueError):  # half a line, of a process that was killed
            row = json.loads(line)
            sent.add((row["key"], int(row["global_step"])))
    return sent
