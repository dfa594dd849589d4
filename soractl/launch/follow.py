"""Watches a started attempt until it ends, and sees to it that all its nodes end together."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from soractl.errors import ExitCode, SoractlError
from soractl.launch.start import Started
from soractl.processes.selection import Selection
from soractl.processes.stop import stop
from soractl.remote.requests import Remote
from soractl.runs import node_states as attempts
from soractl.runs.node_states import NodeState
from soractl.runs.post_mortem import Outcome, settle
from soractl.runs.progress import Progress, ProgressReader
from soractl.runs.record import AttemptRecord, read_record
from soractl.terminal.hints import to_type
from soractl.terminal.meter import Display
from trainer.atomic_files import write_json
from trainer.run_dir import AttemptDir

TICK_S = 0.5
LOOK_EVERY_S = 5.0
FAREWELL_S = 3.0  # after one node failed the others usually fail by themselves
GRACE_S = 20.0  # for ranks that have to be stopped
GRACE_S_WITHOUT_ALL = 2.0  # to save takes all ranks, so those that are left need no time
LOOKS_UNTIL_LOST = 2  # in a row without an answer, so 10 s
LOOKS_UNTIL_ALONE = 120  # when no node answers it is more likely this machine that is cut off
# A synchronous step needs every node: one that is not older than this proves them all alive.
STALE_AFTER_S = 10.0
STALE_AFTER_STEPS = 3


class NodeWatch:
    """What the nodes of an attempt are known to do, and which of them are lost."""

    def __init__(
        self, attempt: AttemptDir, record: AttemptRecord, ask: Callable[[], list[NodeState]]
    ) -> None:
        self._attempt = attempt
        self._record = record
        self._ask = ask
        self._answers: Future[list[NodeState]] | None = None
        self._next_look = time.monotonic() + LOOK_EVERY_S
        self._silent: Counter[str] = Counter()
        self._failed_at: float | None = None
        self.states: list[NodeState] = []
        self.lost: dict[str, str] = {}

    @property
    def ended(self) -> bool:
        """Every node's script wrote how it ended."""
        return all(state.ended for state in self.states)

    @property
    def culprits(self) -> list[str]:
        """Lost nodes, and nodes that failed so long ago that the others no longer follow."""
        failed = [state.node for state in self.states if state.exit_code not in (None, 0)]
        if failed and self._failed_at is None:
            self._failed_at = time.monotonic()
        overdue = self._failed_at and time.monotonic() - self._failed_at > FAREWELL_S
        return list(self.lost) or (failed if overdue else [])

    def update(self, progress: Progress) -> None:
        """Read the exit codes on disk and, when it is time, what the nodes answered."""
        self.states = attempts.read_states(self._attempt, self._record.nodes)
        if self._answers is None and time.monotonic() >= self._next_look:
            self._answers = Future()
            self._next_look = time.monotonic() + LOOK_EVERY_S
            threading.Thread(target=self._look, args=(self._answers,), daemon=True).start()
        if self._answers is not None and self._answers.done():
            self._take_in(self._answers.result(), progress)
            self._answers = None

    def find_lost(self) -> None:
        """Ask all nodes now: one that is silent while others fail is what they fail of."""
        for state in self._ask():
            if state.vanished:
                self.lost[state.node] = attempts.VANISHED
            elif state.fault:
                self.lost[state.node] = silence(state)

    def _take_in(self, answers: list[NodeState], progress: Progress) -> None:
        self._silent = Counter({s.node: self._silent[s.node] + 1 for s in answers if s.fault})
        self.lost = lost_nodes(answers, self._silent, progress)
        if len(self._silent) == len(answers) and min(self._silent.values()) > LOOKS_UNTIL_ALONE:
            raise SoractlError(
                "no node has answered for 10 minutes; the run may well go on",
                exit_code=ExitCode.SOME_UNREACHABLE,
            )
        # A shared folder may show a new file late; the node that wrote it knows at once.
        seen = {s.node: s for s in answers if s.ended}
        self.states = [s if s.ended else seen.get(s.node, s) for s in self.states]

    def _look(self, answers: "Future[list[NodeState]]") -> None:
        try:
            answers.set_result(self._ask())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answers.set_exception(error)


def lost_nodes(
    answers: Sequence[NodeState], silent: Counter[str], progress: Progress
) -> dict[str, str]:
    """The nodes that no longer take part, and how that is known."""
    lost = {state.node: attempts.VANISHED for state in answers if state.vanished}
    limit_s = max(STALE_AFTER_S, (progress.s_per_step or 0) * STALE_AFTER_STEPS)
    stale = progress.heartbeat_age_s is None or progress.heartbeat_age_s > limit_s
    if stale and len(silent) < len(answers):
        for state in answers:
            if silent[state.node] >= LOOKS_UNTIL_LOST:
                lost[state.node] = silence(state)
    return lost


def silence(state: NodeState) -> str:
    """How it is said that a node does not answer."""
    return f"the node does not answer ({state.fault})"


def follow(started: Started, remote: Remote, display: Display) -> tuple[Outcome, Progress]:
    """Show progress until the attempt has ended on all nodes; one failed node ends the others."""
    record = read_record(started.attempt)
    head_log = started.attempt.node_log(record.nodes[0].name)
    reader = ProgressReader(started.run, head_log, record.started_unix_s)
    watch = NodeWatch(
        started.attempt, record, lambda: attempts.look(started.attempt, record, remote)
    )
    while True:
        progress = reader.read(time.time())
        display.show(progress)
        watch.update(progress)
        if watch.ended:
            break
        if watch.culprits:
            if not watch.lost:
                watch.find_lost()
            display.say(f"{', '.join(watch.culprits)} failed; stopping all nodes")
            grace_s = GRACE_S_WITHOUT_ALL if watch.lost else GRACE_S
            stopped = stop(record.nodes, remote, Selection(run_id=record.run_id), grace_s=grace_s)
            if left := [result.node.name for result in stopped if not result.ok]:
                name = started.run.name
                stop_it = to_type("kill", name)
                display.say(f"{', '.join(left)} may still run it; `{stop_it}` stops that")
            watch.states = attempts.read_states(started.attempt, record.nodes)
            break
        time.sleep(TICK_S)
    outcome = settle(started.attempt, record, watch.states, watch.lost)
    write_json(started.attempt.exit, outcome.as_json())
    return outcome, reader.read(time.time())
