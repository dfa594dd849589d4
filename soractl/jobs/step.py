"""The step of an attempt: `srun`, which runs the node scripts, and what ends it."""

import os
import sys
import time
from collections.abc import Sequence

from soractl.queue.kinds import queue_of
from soractl.remote.local import Processes
from soractl.runs.node_states import read_states
from soractl.runs.record import read_record
from trainer.run_dir import AttemptDir

PEER_EXIT_GRACE_S = 10.0  # after one node failed the others usually end by themselves
# What the ends of the ranks' and launchers' interpreters may take once all is saved: on a busy
# node seconds, in which the job could be on its way back.
LEAVE_S = 2.0


class Step:
    """The scripts of an attempt's nodes, while they run."""

    def __init__(self, attempt: AttemptDir, run_id: str) -> None:
        nodes = read_record(attempt).nodes
        self._attempt, self._nodes = attempt, nodes
        self._failed_at: float | None = None
        self._saved_at: float | None = None
        self._programs = Processes()
        names: Sequence[str] = [node.name for node in nodes]
        queue = queue_of(attempt)
        argv = queue.on_all_nodes(names, attempt.path, run_id, os.environ.get("HOME", "/"))
        self._srun = self._programs.start(argv, sys.stderr.buffer)

    @property
    def alive(self) -> bool:
        """`srun` has not ended."""
        return self._srun.alive

    @property
    def is_overdue(self) -> bool:
        """One node failed so long ago that the others no longer follow by themselves."""
        failed = any(state.exit_code for state in read_states(self._attempt, self._nodes))
        if failed and self._failed_at is None:
            self._failed_at = time.monotonic()
        at = self._failed_at
        return at is not None and time.monotonic() - at > PEER_EXIT_GRACE_S

    @property
    def has_left(self) -> bool:
        """Rank 0 noted a while ago that all have saved and leave: what is left only ends."""
        if self._saved_at is None and self._attempt.stopped.exists():
            self._saved_at = time.monotonic()
        return self._saved_at is not None and time.monotonic() - self._saved_at > LEAVE_S

    def end(self) -> None:
        """End what is left of it: at TERM `srun` kills its tasks."""
        self._programs.close()
