"""Watch over the nodes of an attempt: their states, the lost and the failed ones."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from soractl.errors import ExitCode, SoractlError
from soractl.runs.lost_nodes import (
    MIN_SILENCE_S,
    lost_nodes,
    silence_limit_s,
    silent_while_others_fail,
)
from soractl.runs.node_states import NodeState, read_states
from soractl.runs.progress import Progress
from soractl.runs.record import AttemptRecord
from trainer.run_dir import AttemptDir


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of following, in seconds."""

    tick_s: float = 0.5
    look_every_s: float = 5.0
    peer_exit_grace_s: float = 3.0  # after one node failed the others usually fail by themselves
    min_silence_s: float = MIN_SILENCE_S  # see soractl.runs.lost_nodes
    collective_timeout_s: float = 600.0  # after it the ranks end by themselves
    deadline_s: float | None = None  # for the whole attempt, after which it is stopped
    cut_off_s: float = 600.0  # no node answers: it is more likely this machine that is cut off


class NodeWatch:
    """States of an attempt's nodes as they come, and which nodes are lost."""

    def __init__(
        self,
        attempt: AttemptDir,
        record: AttemptRecord,
        ask: Callable[[], list[NodeState]],
        timing: Timing,
    ) -> None:
        self._attempt = attempt
        self._record = record
        self._ask = ask
        self._timing = timing
        self._answers: Future[list[NodeState]] | None = None
        now_s = time.monotonic()
        self._next_look = now_s + timing.look_every_s
        self._last_answer_s = {node.name: now_s for node in record.nodes}  # the last answer
        self._failed_at: float | None = None
        self.states: list[NodeState] = []
        self.answers: list[NodeState] = []  # the newest
        self.looks = 0  # how often all nodes were asked
        self.lost: dict[str, str] = {}
        self.orphaned: dict[str, int] = {}  # nodes whose ranks outlive their launcher: how many

    @property
    def ended(self) -> bool:
        """Every node's script wrote how it ended, and no rank has outlived it."""
        return all(state.ended for state in self.states) and not self.orphaned

    @property
    def exited_badly(self) -> bool:
        """A launcher ended with another code than 0."""
        return any(state.exit_code for state in self.states)

    @property
    def failed_nodes(self) -> list[str]:
        """Lost nodes, and nodes that failed so long ago that the others no longer follow."""
        failed = [
            state.node
            for state in self.states
            if state.exit_code and state.node not in self.orphaned
        ]
        if failed and self._failed_at is None:
            self._failed_at = time.monotonic()
        grace_s = self._timing.peer_exit_grace_s
        overdue = self._failed_at and time.monotonic() - self._failed_at > grace_s
        return list(self.lost) or (failed if overdue else [])

    def update(self, progress: Progress) -> None:
        """Read the exit codes on disk and, when it is time, the nodes' answers."""
        self.states = read_states(self._attempt, self._record.nodes)
        if self._answers is None and time.monotonic() >= self._next_look:
            self._answers = Future()
            self._next_look = time.monotonic() + self._timing.look_every_s
            threading.Thread(target=self._look, args=(self._answers,), daemon=True).start()
        if self._answers is not None and self._answers.done():
            self._take_in(self._answers.result(), progress)
            self._answers = None

    def ask_soon(self) -> int:
        """Begin the next look without delay; `looks` once one has ended that began after this."""
        self._next_look = time.monotonic()
        return self.looks + (1 if self._answers is None else 2)

    def confirm(self) -> None:
        """Ask all nodes now: one that is silent while others fail is why they fail.

        And a launcher that has failed may have left ranks that train on.
        """
        answers = self._ask()
        self._keep(answers)
        self.lost |= silent_while_others_fail(answers)

    def _take_in(self, answers: list[NodeState], progress: Progress) -> None:
        now_s, timing = time.monotonic(), self._timing
        self._keep(answers)
        self._last_answer_s |= {state.node: now_s for state in answers if not state.fault}
        silent_s = {name: now_s - answer_s for name, answer_s in self._last_answer_s.items()}
        limit_s = silence_limit_s(progress, timing.collective_timeout_s, timing.min_silence_s)
        age_s = progress.heartbeat_age_s
        without_step_s = age_s if age_s is not None else progress.elapsed_s or 0.0
        self.lost = lost_nodes(answers, silent_s, without_step_s, limit_s)
        if all(state.fault for state in answers) and min(silent_s.values()) > timing.cut_off_s:
            raise SoractlError(
                f"no node has answered for {timing.cut_off_s / 60:.0f} minutes; "
                "the run may well go on",
                exit_code=ExitCode.SOME_UNREACHABLE,
            )
        # A shared folder may show a new file late; the node that wrote it knows at once.
        seen = {s.node: s for s in answers if s.ended}
        self.states = [s if s.ended else seen.get(s.node, s) for s in self.states]

    def _keep(self, answers: list[NodeState]) -> None:
        self.answers, self.looks = answers, self.looks + 1
        for state in answers:
            if state.outlived_by:
                self.orphaned[state.node] = state.outlived_by
            elif state.fault is None:
                self.orphaned.pop(state.node, None)

    def _look(self, answers: "Future[list[NodeState]]") -> None:
        try:
            answers.set_result(self._ask())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answers.set_exception(error)
