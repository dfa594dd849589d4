"""Examination of a run that seems to hang: looks at all ranks until two in a row agree."""

import time
from dataclasses import dataclass

from soractl.diagnosis.culprit import Verdict, VerdictKind, verdict
from soractl.diagnosis.flight_recorder import Look, look
from soractl.errors import ExitCode, SoractlError
from soractl.remote.requests import Remote
from soractl.runs.find import last_attempt
from soractl.runs.owner import UNSEEN, refuse_another_users
from soractl.runs.record import AttemptRecord, read_record
from trainer.run_dir import AttemptDir, RunDir

PAUSE_S = 2.0  # between two looks; a healthy rank enters a collective more often
MOST_LOOKS = 4


@dataclass(frozen=True)
class Examination:
    """Two looks and their verdict."""

    first: Look
    second: Look
    verdict: Verdict


def started(run: RunDir) -> tuple[AttemptDir, AttemptRecord]:
    """The newest attempt of a run and where it runs.

    SoractlError: exit code 6 if it was never started, 5 for another user's run.
    """
    refuse_another_users(run, f", {UNSEEN}")
    attempt = last_attempt(run)
    if attempt is None:
        raise SoractlError(f"{run.name} was never started", exit_code=ExitCode.NOTHING_SUITABLE)
    return attempt, read_record(attempt)


def examine(
    attempt: AttemptDir,
    record: AttemptRecord,
    remote: Remote,
    *,
    pause_s: float = PAUSE_S,
    most_looks: int = MOST_LOOKS,
) -> Examination:
    """Look, wait, look again, until collectives stand still between two looks or have not."""
    first = look(attempt, record, remote, full=True)
    if first.faults:  # nothing follows, whatever a second look sees
        return Examination(first, first, verdict(first, first))
    for _ in range(most_looks - 1):
        time.sleep(max(0.0, first.taken_s + pause_s - time.monotonic()))
        second = look(attempt, record, remote, full=True)
        found = Examination(first, second, verdict(first, second))
        if found.verdict.kind is not VerdictKind.MOVING:
            break
        first = second
    return found
