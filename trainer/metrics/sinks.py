"""Sinks of a step's metrics: metrics.jsonl, TensorBoard and Weights & Biases."""

import io
import json
import logging
import math
import netrc
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, Protocol

from trainer.atomic_files import append_jsonl, append_whole
from trainer.config import LogConfig
from trainer.metrics.wandb_videos import EVALUATIONS_S, EvalUploads
from trainer.run_dir import RunDir

log = logging.getLogger("trainer")

_WANDB_MACHINE = "api.wandb.ai"


class Sink(Protocol):
    """Something that numbers are sent to."""

    def write(self, values: Mapping[str, float], global_step: int) -> None:
        """Record the values of one step."""

    def close(self) -> None:
        """Everything is written when this returns."""


def open_sinks(
    run: RunDir, config: LogConfig, settings: Mapping[str, Any], *, global_step: int
) -> list[Sink]:
    """The sinks that a run's settings ask for, from `global_step` on; only rank 0 has any."""
    sinks: list[Sink] = [_Jsonl(run)]
    if config.tensorboard:
        sinks.append(_TensorBoard(run, global_step))
    if config.wandb:
        sinks.append(WandbSink(run, config.wandb_project, settings))
    return sinks


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """A full disk ends no training: what cannot be written is left out, and the log says so."""
    try:
        yield
    except OSError as error:
        log.error("%s cannot be written, training goes on: %s", what, error)


class _Jsonl:
    def __init__(self, run: RunDir) -> None:
        self._path = run.metrics

    def write(self, values: Mapping[str, float], global_step: int) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        append_jsonl(self._path, [{"global_step": global_step, **finite}])

    def close(self) -> None:
        pass


class _TensorBoard:
    """An event file of the attempt, to which each step adds one record.

    Written here and not by SummaryWriter, whose thread ends for good when the disk is full.
    """

    def __init__(self, run: RunDir, global_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # only when wanted

        run.tensorboard.mkdir(exist_ok=True)
        began_unix_s = int(time.time())
        name = f"events.out.tfevents.{began_unix_s}.{socket.gethostname()}.{os.getpid()}"
        self._path = run.tensorboard / name
        # what an attempt logged past its last checkpoint is hidden: it is logged again
        start = SessionLog(status=SessionLog.START)
        self._before = _record(Event(wall_time=began_unix_s, file_version="brain.Event:2"))
        self._before += _record(
            Event(wall_time=began_unix_s, step=global_step + 1, session_log=start)
        )

    def write(self, values: Mapping[str, float], global_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        shown = [Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        summary = Summary(value=shown)
        step = _record(Event(wall_time=time.time(), step=global_step, summary=summary))
        append_whole(self._path, self._before + step)
        self._before = b""

    def close(self) -> None:
        pass


def _record(event: Any) -> bytes:
    """An event as its file has it: length and content, each with a checksum."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()


class WandbSink:
    """One W&B run for the life of the run, whatever number of attempts it takes.

    Offline, each attempt writes a file of its own, which W&B begins at step 0 as of a new run. So
    that nothing is lost whichever of them are synced, or replace each other, an attempt's file
    begins with all steps before it, each under its own number.
    """

    def __init__(
        self,
        run: RunDir,
        project: str,
        settings: Mapping[str, Any],
        *,
        lock: IO[bytes] | None = None,
    ) -> None:
        import wandb  # most of a second, so only when wanted

        self._session = wandb.init(  # of several writers (WANDB_MODE=shared) it is the primary one
            project=project,
            name=run.name,
            id=_wandb_id(run),
            resume="allow",
            mode=None if _has_wandb_login() else "offline",
            dir=str(run.path),
            config=dict(settings),
            # written each half second: a killed process loses no more
            settings=wandb.Settings(
                x_primary=True, x_label="rank 0", x_transaction_log_flush_interval=0.5
            ),
        )
        self._defined: set[str] = set()
        self._uploads = EvalUploads(run, self._session, lock=lock)
        self._path = run.wandb_step
        self._sent = 0
        if self._session.offline:
            for row in _rows_before(run):
                self.write(row, int(row["global_step"]))
        elif self._path.exists():
            self._sent = int(self._path.read_text() or 0)

    def write(self, values: Mapping[str, float], global_step: int) -> None:
        if global_step <= self._sent:  # by an attempt that came further than its last checkpoint
            return
        # W&B's own step cannot go back to a checkpoint, and is not known when several write. Keys
        # by name: beside a pattern for all, W&B gives those of evaluations one axis or the other.
        for key in values.keys() - self._defined - {"global_step"}:
            self._session.define_metric(key, step_metric="global_step")
            self._defined.add(key)
        own_step = global_step if self._session.offline else None  # alone, as there is one writer
        self._session.log({"global_step": global_step, **values}, step=own_step)
        self._uploads.row_ended()
        self._sent = global_step
        if not self._session.offline:
            self._path.write_text(str(global_step))

    def close(self, timeout_s: float | None = EVALUATIONS_S) -> None:
        self._uploads.close(timeout_s)
        self._session.finish()


def _rows_before(run: RunDir) -> Iterator[dict[str, float]]:
    """Rows of earlier attempts, up to the checkpoint where this one begins."""
    if not run.metrics.exists():
        return
    for line in run.metrics.read_text().splitlines():
        with suppress(ValueError):  # half a line, from an attempt that was killed while it wrote
            row = json.loads(line)
            yield {key: math.nan if value is None else value for key, value in row.items()}


def _wandb_id(run: RunDir) -> str:
    if not run.wandb_id.exists():
        run.wandb_id.write_text(os.urandom(4).hex())
    return run.wandb_id.read_text()


def _has_wandb_login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE"):
        return True
    try:
        return netrc.netrc().authenticators(_WANDB_MACHINE) is not None
    except (OSError, netrc.NetrcParseError):
        return False
