"""Evaluations of a run: fetched from another machine's folder of it, and sent back there."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.sync import rsync
from soractl.sync.copy import linked
from soractl.sync.plan import SyncPlan
from soractl.sync.rsync import Link, RsyncJob, SourceGone
from trainer.checkpoint_dir import DRAFT
from trainer.run_dir import RunDir

_RUN = RunDir(Path())
_SO_FAR = _RUN.evaluation_progress("", 0).name  # of a server at work, which takes it away again
_OWN = (f"{DRAFT}*", ".*", _SO_FAR, _RUN.sent_evaluations.name)  # claims; what that machine sent
_RESULT = _RUN.evaluation_result("", 0).name
_GALLERY = (_RUN.gallery.name, _RUN.gallery_data.name)


def fetch(planned: SyncPlan) -> None:
    """Fetch what other servers evaluated, results last; what is here stays as it is.

    What a server here is at work on is left out: a result of an older save would count again.
    """
    here = planned.copy_of_run.evaluations
    claimed = (claim.parent.relative_to(here) for claim in here.glob("*/*/.claim"))
    left_out = (*_OWN, *_GALLERY, *(f"/{folder}/" for folder in claimed))
    with linked(planned) as link, suppress(SourceGone):  # nothing was evaluated yet
        for without in ((*left_out, _RESULT), left_out):
            _copy(planned, link, ("--ignore-existing", *_excluded(without)), back=False)


def send(planned: SyncPlan) -> None:
    """Send what was evaluated here to the run's own folder, results and the gallery last.

    SoractlError where a file cannot be read here, or has no place there.
    """
    try:
        with linked(planned) as link:
            for without in ((*_OWN, _RESULT, *_GALLERY), _OWN):
                _copy(planned, link, _excluded(without), back=True)
    except SourceGone as gone:
        raise SoractlError(f"not all was sent: {gone}", exit_code=ExitCode.FAILED) from None


def send_begun(planned: SyncPlan) -> None:
    """Send the videos so far, while more are being made, then the gallery as it was before.

    So every video that it names is there. Results, and what cannot be sent now, are left to `send`.
    """
    with (
        suppress(OSError, SourceGone),
        linked(planned) as link,
        tempfile.TemporaryDirectory() as name,
    ):
        for page in _GALLERY:
            shutil.copy2(planned.copy_of_run.evaluations / page, name)
        _copy(planned, link, _excluded([*_OWN, _RESULT, *_GALLERY]), back=True)
        there = replace(planned.endpoints.source, folder=planned.run.evaluations)
        here = replace(planned.endpoints.destination, folder=Path(name))
        rsync.run(RsyncJob(here, there, ()), link, lambda _: None)


def _excluded(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"--exclude={name}" for name in names)


def _copy(planned: SyncPlan, link: Link, options: tuple[str, ...], *, back: bool) -> None:
    there = replace(planned.endpoints.source, folder=planned.run.evaluations)
    here = replace(planned.endpoints.destination, folder=planned.copy_of_run.evaluations)
    source, destination = (here, there) if back else (there, here)
    rsync.run(RsyncJob(source, destination, options), link, lambda _: None)
