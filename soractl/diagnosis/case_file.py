"""The case file of a run's newest failed attempt: what is on disk, and what nodes' kernels say."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from soractl.diagnosis import node_facts
from soractl.diagnosis.evidence import MANIFEST, step_of
from soractl.diagnosis.examination import started
from soractl.diagnosis.node_facts import NodeFacts
from soractl.diagnosis.why import CaseFile, Explanation, explain
from soractl.remote.requests import Remote
from soractl.runs.events import Event, EventKind, operators_stops, read_events
from soractl.runs.node_log import tail
from soractl.runs.post_mortem import Failure, read_outcome
from soractl.runs.record import AttemptRecord, read_record
from soractl.runs.status import read_status
from trainer.atomic_files import RunDirError, folder_time, read_json
from trainer.run_dir import AttemptDir, RunDir

AROUND_S = 300.0  # messages from so long before an attempt and after it count

_TIME = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[,.]\d+)?([+-]\d\d:?\d\d|Z)?")


@dataclass(frozen=True)
class Explained:
    """An attempt of a run and the cause of its failure; None if it did not fail."""

    attempt: int
    state: str  # of the run's newest attempt
    newest: int
    explanation: Explanation | None


def explain_run(run: RunDir, remote: Remote) -> Explained:
    """The newest attempt that failed or was stopped; else the newest one, without a cause."""
    status = read_status(run, remote)
    newest, record = started(run)
    attempt, failure = newest, status.first_failure
    if failure is None:
        for earlier in reversed(run.attempts()):
            outcome = read_outcome(earlier)
            if outcome is not None and outcome.first_failure is not None:
                attempt, failure = earlier, outcome.first_failure
                record = read_record(earlier)
                break
    if failure is None or status.state == "ended":
        return Explained(newest.number, status.state, newest.number, None)
    facts = node_facts.ask(record.nodes, run.path, remote)
    case = read_case(run, attempt, record, failure, facts)
    return Explained(attempt.number, status.state, newest.number, explain(case))


def read_case(
    run: RunDir,
    attempt: AttemptDir,
    record: AttemptRecord,
    failure: Failure | None,
    facts: Sequence[NodeFacts] = (),
) -> CaseFile:
    """All that is known of an attempt's end; nodes that did not answer add nothing."""
    ended = max([_ended_unix_s(attempt), record.started_unix_s])
    span = record.started_unix_s - AROUND_S, ended + AROUND_S
    now = folder_time(attempt.path)
    folder, verdict = newest_evidence(attempt)
    if verdict is not None and _went_on(run, attempt, verdict):
        verdict = None  # what it saw was over
    stops = operators_stops(run, attempt.number)
    stop = next((one for one in stops if one.time_unix_s <= ended), None)  # not after its end
    return CaseFile(
        failure=failure,
        accounts=[
            {**account, "node": record.node_of_rank(int(account["rank"]))}
            for account in attempt.rank_failures()
        ],
        logs={node.name: tail(attempt.node_log(node.name)) for node in record.nodes},
        kernel={one.node: _kernel_of(one, span, now) for one in facts},
        verdict=verdict,
        watched=_watched(run, attempt),
        full_disks={one.node: one.full_disks for one in facts if one.full_disks},
        stopped_by=f"`soractl {stop.by}`" if stop else None,
        requeued=_requeued(run, attempt),
        stopped_unix_s=stop.time_unix_s if stop else None,
        evidence=str(folder) if folder else None,
    )


def _kernel_of(one: NodeFacts, span: tuple[float, float], now: float) -> tuple[str, ...]:
    """A node's messages of a span of the run's time; `now` by its clock, the node's is its own."""
    ahead_s = 0.0 if one.clock_unix_s is None else one.clock_unix_s - now
    return within(one.kernel, *(at + ahead_s for at in span))


def within(lines: Sequence[str], begin_unix_s: float, end_unix_s: float) -> tuple[str, ...]:
    """The kernel messages of a span of time; those without a time of day are left out."""
    return tuple(
        line
        for line in lines
        if (when := _unix_s(line)) is not None and begin_unix_s <= when <= end_unix_s
    )


def newest_evidence(attempt: AttemptDir) -> tuple[Path | None, Mapping[str, Any] | None]:
    """Folder and `verdict.json` of the newest evidence that is complete."""
    with suppress(OSError, RunDirError):
        for folder in sorted(attempt.evidence.iterdir(), reverse=True):
            if (folder / MANIFEST).exists():
                return folder, read_json(folder / "verdict.json")
    return None, None


def _went_on(run: RunDir, attempt: AttemptDir, verdict: Mapping[str, Any]) -> bool:
    """Steps were finished after the evidence was taken."""
    now, then = step_of(run, attempt), verdict.get("step")
    return now is not None and (then is None or now > int(then))


def _ended_unix_s(attempt: AttemptDir) -> float:
    """When the attempt ended, or now, by the clock of its folder."""
    with suppress(OSError, RunDirError, KeyError, TypeError, ValueError):
        return float(read_json(attempt.exit)["ended_unix_s"])
    return folder_time(attempt.path)


def _requeued(run: RunDir, attempt: AttemptDir) -> str:
    """Reason for which the attempt's job went back into Slurm's queue, or nothing."""
    found = (e for e in read_events(run) if e.kind is EventKind.REQUEUED)
    return next((one.text for one in found if one.attempt == attempt.number), "")


def _watched(run: RunDir, attempt: AttemptDir) -> Event | None:
    """The last word of whoever watched, if it is that the attempt hangs or has lost a node."""
    kinds = (EventKind.HUNG, EventKind.LOST, EventKind.CRASHED, EventKind.RECOVERED)
    found = [e for e in read_events(run) if e.attempt == attempt.number and e.kind in kinds]
    is_so = bool(found) and found[-1].kind in (EventKind.HUNG, EventKind.LOST)
    return found[-1] if is_so else None


def _unix_s(line: str) -> float | None:
    found = _TIME.match(line)
    if found is None:
        return None
    zone = (found[2] or "Z").replace("Z", "+00:00")
    return datetime.fromisoformat(f"{found[1]}{zone}").timestamp()
