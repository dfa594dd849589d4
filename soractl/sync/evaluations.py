"""Evaluations of a run: fetched from another machine's folder of it, and sent back there."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from soractl.remote.openssh import socket_folder
from soractl.sync import rsync
from soractl.sync.copy import shell_of
from soractl.sync.plan import SyncPlan
from soractl.sync.rsync import RsyncJob, SourceGone
from trainer.checkpoint_dir import DRAFT
from trainer.run_dir import RunDir

_RUN = RunDir(Path())
_OWN = (f"{DRAFT}*", ".*", _RUN.sent_evaluations.name)  # drafts, claims, what that machine sent
_LAST = (_RUN.evaluation_result("", 0).name, _RUN.gallery.name, _RUN.gallery_data.name)


def fetch(planned: SyncPlan) -> None:
    """Fetch what other servers evaluated, results last; what is here stays as it is."""
    made = _excluded([*_OWN, _RUN.gallery.name, _RUN.gallery_data.name])
    with suppress(SourceGone):  # nothing was evaluated yet
        for without in (made + _excluded(_LAST[:1]), made):
            _copy(planned, ("--ignore-existing", *without), back=False)


def send(planned: SyncPlan) -> None:
    """Send what was evaluated here to the run's own folder, results and the gallery last."""
    for without in ([*_OWN, *_LAST], _OWN):
        _copy(planned, _excluded(without), back=True)


def _excluded(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"--exclude={name}" for name in names)


def _copy(planned: SyncPlan, options: tuple[str, ...], *, back: bool) -> None:
    there = replace(planned.endpoints.source, folder=planned.run.evaluations)
    here = replace(planned.endpoints.destination, folder=planned.copy_of_run.evaluations)
    source, destination = (here, there) if back else (there, here)
    with socket_folder() as folder:
        link = replace(planned.link, shell=shell_of(planned, Path(folder)))
        rsync.run(RsyncJob(source, destination, options), link, lambda _: None)
