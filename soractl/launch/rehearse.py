"""`launch --rehearse`: each bucket of a stage on the real nodes, and nothing of it kept."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.data.buckets import columns_of
from soractl.errors import ExitCode, Interrupted, SoractlError, raise_if_interrupted
from soractl.estimate import rehearsals
from soractl.estimate.rehearsal_report import one_line
from soractl.estimate.rehearsals import Bucket, Rehearsal
from soractl.files.lock import locked
from soractl.launch.follow import follow, timing_of
from soractl.launch.prepare import Prepared
from soractl.launch.start import commit, start, write_attempt
from soractl.processes.scan import find
from soractl.processes.selection import Selection
from soractl.processes.stop import stop
from soractl.remote.folding import fold_places
from soractl.remote.requests import Remote
from soractl.runs.post_mortem import Failure
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.meter import Display, Measured
from trainer.atomic_files import folder_time, read_json, write_json
from trainer.config import TrainConfig
from trainer.run_dir import RunDir, rehearsal_path
from trainer.settings import dump, parse_override, resolve, without_nulls

if TYPE_CHECKING:
    from trainer.data.buckets import Bucket as Shape

DEADLINE_S = 900.0  # of a bucket, networks and the first clips included
SCAN_S = 10.0
MOST_TRIES = 3  # of a bucket that does not fit, each with what the last one's error asks for
STOP_GRACE_S = 2.0  # nothing is saved


@dataclass(frozen=True)
class _Heading:
    """A display's line of an attempt, behind the bucket's name."""

    inner: Measured
    heading: str

    @property
    def done(self) -> int | None:
        return self.inner.done

    @property
    def total(self) -> int | None:
        return self.inner.total

    @property
    def news(self) -> str:
        return f"{self.heading} {self.inner.news}"

    def one_line(self) -> str:
        # a rehearsal logs no step of a run, so an attempt looks as if it never got past its start
        return f"{self.heading}: {self.inner.one_line().removeprefix('starting').lstrip()}"


@dataclass(frozen=True)
class _Named:
    """A display that names the bucket."""

    display: Display
    heading: str

    def show(self, measured: Measured) -> None:
        self.display.show(_Heading(measured, self.heading))

    def say(self, text: str) -> None:
        self.display.say(f"{self.heading}: {text}")


def buckets_of(prepared: Prepared) -> list["Shape"]:
    """The buckets that the table fills, the largest first.

    Of a resolution and length, the aspect ratio with most tokens among those that have a batch.
    SoractlError, exit code 6, if there is none.
    """
    from trainer.data.buckets import assign_epoch

    if prepared.site.is_queued:
        raise SoractlError(
            "--rehearse does not work through a queue", hint="rehearse within an allocation"
        )
    table = prepared.site.workdir / prepared.config.data.path
    assignment = assign_epoch(columns_of(table), prepared.config, 0)
    largest: dict[tuple[str, int], Shape] = {}
    for bucket, count in zip(assignment.buckets, assignment.counts.tolist(), strict=True):
        if bucket.batch_size and count >= bucket.batch_size:
            key = bucket.resolution, bucket.frames
            known = largest.get(key)
            if known is None or bucket.tokens > known.tokens:
                largest[key] = bucket
    if not largest:
        raise SoractlError(
            f"{table} fills no bucket of {prepared.stage}",
            hint=f"soractl data buckets {prepared.stage} {table} says where its clips go",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    return sorted(largest.values(), key=lambda bucket: -bucket.tokens)


def refuse_if_busy(prepared: Prepared, remote: Remote) -> None:
    """SoractlError, exit code 5, if a node has processes of a run: they would be measured too."""
    nodes = [node.node for node in prepared.plan.nodes]
    rows = find(nodes, remote, Selection(), deadline_s=SCAN_S)
    raise_if_interrupted((row.fault for row in rows), "nothing was started")
    if busy := [row for row in rows if row.processes]:
        runs = sorted({Path(p.run_id).name for row in busy for p in row.processes if p.run_id})
        where = fold_places(
            (row.node.name, text.count(len(row.processes), "process", "processes")) for row in busy
        )
        raise SoractlError(
            f"a rehearsal needs the nodes for itself; they are in use by {', '.join(runs[:3])}: "
            f"{where}",
            hint=f"`{to_type('kill', runs[0])}` stops it; --force rehearses all the same",
            exit_code=ExitCode.REFUSED,
        )


def rehearse(
    prepared: Prepared,
    shapes: Sequence["Shape"],
    remote: Remote,
    display: Display,
    deadline_s: float = DEADLINE_S,
) -> Rehearsal:
    """Rehearse every bucket in processes of its own; the result goes to `STAGE.json`.

    Whatever ends it, no process and no other file stays behind.
    """
    root = prepared.plan.run.parent
    run = RunDir(rehearsal_path(root, prepared.stage))
    run.path.mkdir(parents=True, exist_ok=True)
    busy = f"{prepared.stage} is being rehearsed by another command"
    with locked(run.path / ".rehearsal.lock", busy):
        try:
            found = _Rehearsing(prepared, run, remote, display, deadline_s).all_of(shapes)
        except KeyboardInterrupt:
            raise Interrupted("nothing of the rehearsal is left") from None
        finally:
            nodes = [node.node for node in prepared.plan.nodes]
            which = Selection(run_id=str(run.path))
            stop(nodes, remote, which, grace_s=STOP_GRACE_S)
            shutil.rmtree(run.path, ignore_errors=True)
    rehearsals.write(root, found)
    return found


@dataclass
class _Rehearsing:
    prepared: Prepared
    run: RunDir
    remote: Remote
    display: Display
    deadline_s: float

    def all_of(self, shapes: Sequence["Shape"]) -> Rehearsal:
        """The rows of all buckets; the last, which is the smallest, writes a checkpoint."""
        self.run.checkpoints_folder.mkdir(exist_ok=True)
        rows: list[Bucket] = []
        facts: dict[str, Any] = {}
        for number, shape in enumerate(shapes, 1):
            heading = f"{shape.name} ({number} of {len(shapes)})"
            row, measured = self._row(shape, heading, checkpoint=number == len(shapes))
            rows.append(row)
            facts |= measured
            self.display.say(f"{heading}: {one_line(row)}")
        plan = self.prepared.plan
        return Rehearsal(
            stage=self.prepared.stage,
            created_unix_s=folder_time(self.run.path),
            commit=commit(self.remote),
            nodes=tuple(node.node.name for node in plan.nodes),
            world_size=plan.world_size,
            gpu=facts.get("gpu"),
            buckets=tuple(rows),
            reduced_bytes_per_s=facts.get("reduced_bytes_per_s"),
            checkpoint_s=facts.get("checkpoint_s"),
            checkpoint_stall_s=facts.get("checkpoint_stall_s"),
            checkpoint_bytes=facts.get("checkpoint_bytes"),
            checkpoint_fault=facts.get("checkpoint_fault"),
            settings=dump(self.prepared.config),
        )

    def _row(
        self, shape: "Shape", heading: str, *, checkpoint: bool
    ) -> tuple[Bucket, dict[str, Any]]:
        """One bucket; one that does not fit is tried again with what its error asks for."""
        row = Bucket(name=shape.name, batch_size=shape.batch_size)
        changed: dict[str, float] = {}
        for _ in range(MOST_TRIES):
            config = _with(self.prepared.config, changed)
            measured, failure = self._attempt(shape, config, heading, checkpoint)
            if measured:
                own = {name: measured[name] for name in _OF_BUCKET}
                return replace(row, **own, fits_with=changed), measured
            row = row if row.fault else replace(row, fault=failure.error)
            asked = (failure.remedy or {}).get("settings")
            if not asked:
                break
            changed = dict(asked)
            self.display.say(f"{heading}: does not fit; trying {_as_words(changed)}")
        return row, {}

    def _attempt(
        self, shape: "Shape", config: TrainConfig, heading: str, checkpoint: bool
    ) -> tuple[dict[str, Any], Failure]:
        """The measurements of a bucket's processes, or why there are none."""
        attempt = self.run.new_attempt()
        prepared = replace(self.prepared, config=config, run=self.run)
        started = write_attempt(prepared, self.run, attempt)
        write_json(attempt.rehearsal, {"bucket": shape.name, "checkpoint": checkpoint})
        refused = [one for one in start(started.plan, attempt, self.remote) if not one.ok]
        raise_if_interrupted((one.fault for one in refused), "nothing of the rehearsal is left")
        if refused:
            faults = [f"{one.node.name}: {one.reason}" for one in refused]
            raise SoractlError("\n".join(faults), exit_code=ExitCode.REFUSED)
        began_s = time.monotonic()
        timing = replace(timing_of(attempt), deadline_s=self.deadline_s)
        outcome, _ = follow(self.run, attempt, self.remote, _Named(self.display, heading), timing)
        if outcome.first_failure is None and attempt.rehearsed.exists():
            return read_json(attempt.rehearsed), Failure("", "")
        if time.monotonic() - began_s >= self.deadline_s:
            return {}, Failure("", f"did not end within {self.deadline_s / 60:.0f} min")
        return {}, outcome.first_failure or Failure("", "its ranks left no measurements")


_OF_BUCKET = ("seconds", "cold_s", "data_s", "encode_s", "peak_bytes", "left_bytes")


def _with(config: TrainConfig, changed: Mapping[str, float]) -> TrainConfig:
    if not changed:
        return config
    layers = [("the stage", without_nulls(dump(config)))]
    layers += [(name, parse_override(f"{name}={value}")) for name, value in changed.items()]
    return resolve(TrainConfig, layers)[0]


def _as_words(settings: Mapping[str, float]) -> str:
    return " ".join(f"--set {name}={value}" for name, value in settings.items())
