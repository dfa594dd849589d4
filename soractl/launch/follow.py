"""Following an attempt until it ends; one failed node ends the others."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from soractl.errors import ExitCode, SoractlError
from soractl.launch.node_watch import NodeWatch, Timing
from soractl.processes.selection import Selection
from soractl.processes.stop import stop
from soractl.remote.folding import fold_names
from soractl.remote.requests import Remote
from soractl.runs.events import EventLog, TrainerEvents
from soractl.runs.find import last_attempt
from soractl.runs.node_states import ask_states, read_states
from soractl.runs.owner import other_owner
from soractl.runs.post_mortem import Outcome, log_end, read_outcome, settle
from soractl.runs.progress import Progress, ProgressReader
from soractl.runs.record import read_record
from soractl.runs.start_lock import is_starting, start_lock
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.meter import Display
from trainer.atomic_files import RunDirError, read_json, write_json
from trainer.run_dir import AttemptDir, RunDir

GRACE_S = 20.0  # for ranks that have to be stopped
GRACE_S_WITHOUT_ALL = 2.0  # to save takes all ranks, so those that are left need no time
START_POLL_S = 0.2


def follow(
    run: RunDir,
    attempt: AttemptDir,
    remote: Remote,
    display: Display,
    timing: Timing | None = None,
    *,
    may_act: Callable[[], bool] = lambda: True,
) -> tuple[Outcome, Progress]:
    """Show progress until the attempt has ended on all nodes; its outcome goes to exit.json.

    Several may follow at once: the first that sees the end settles it, the others read it. While
    `may_act` is false, somebody else stops what is left of a failed attempt and settles it.
    """
    follower = _Follower(run, attempt, remote, display, timing or timing_of(attempt))
    follower.may_act = may_act
    return follower.follow()


def attempt_to_follow(run: RunDir) -> AttemptDir:
    """A run's newest attempt, waited for while a command starts one; exit code 6 without any."""
    while is_starting(run):
        time.sleep(START_POLL_S)
    attempt = last_attempt(run)
    if attempt is None:
        raise SoractlError(f"{run.name} never started", exit_code=ExitCode.NOTHING_SUITABLE)
    return attempt


def timing_of(attempt: AttemptDir) -> Timing:
    """Times of following for the attempt's settings."""
    with suppress(OSError, RunDirError, KeyError, TypeError, ValueError):
        trainer = read_json(attempt.config_json)["trainer"]
        return Timing(collective_timeout_s=float(trainer["collective_timeout_s"]))
    return Timing()


class _Follower:
    def __init__(
        self, run: RunDir, attempt: AttemptDir, remote: Remote, display: Display, timing: Timing
    ) -> None:
        self._run, self._attempt, self._remote = run, attempt, remote
        self._display, self._tick_s = display, timing.tick_s
        self._deadline_s = timing.deadline_s
        self._record = record = read_record(attempt)
        self._reader = ProgressReader(run, attempt.node_log(record.nodes[0].name), attempt.number)
        self._watch = NodeWatch(
            attempt, record, lambda: ask_states(attempt, record, remote), timing
        )
        self._owner = other_owner(run.path)  # who alone can stop it, and note its end
        self._log = EventLog(run, "follow")
        self._shown: set[str] = set()
        self.may_act: Callable[[], bool] = lambda: True

    def follow(self) -> tuple[Outcome, Progress]:
        trainers = TrainerEvents(self._log, self._attempt)
        while (outcome := read_outcome(self._attempt)) is None:
            progress = self._reader.follow()
            self._display.show(progress)
            trainers.look(progress.global_step)
            self._watch.update(progress)
            if outcome := self._end() or self._overdue(progress):
                break
            time.sleep(self._tick_s)
        last = self._reader.follow()
        trainers.look(last.global_step)
        return outcome, last

    def _end(self) -> Outcome | None:
        """The outcome, once it has ended or had to be stopped."""
        watch = self._watch
        if not self._is_newest():
            return self._noted()
        if not self.may_act():
            return None
        if not watch.lost and (watch.failed_nodes or (watch.ended and watch.exited_badly)):
            watch.confirm()
        for node, ranks in watch.orphaned.items():
            self._say(f"{node}: its launcher is gone, {text.count(ranks, 'rank')} of the run go on")
        return self._settled() if watch.ended or watch.failed_nodes else None

    def _overdue(self, progress: Progress) -> Outcome | None:
        """The outcome of an attempt that is stopped because its time is over."""
        if not self._deadline_s or (progress.elapsed_s or 0) <= self._deadline_s:
            return None
        stop(self._record.nodes, self._remote, Selection(run_id=self._record.run_id), grace_s=0)
        self._watch.states = read_states(self._attempt, self._record.nodes)
        return self._noted()

    def _settled(self) -> Outcome | None:
        """Note the end, after stopping what is left; None while another command is at it."""
        failed = fold_names(self._watch.failed_nodes)
        if self._owner and not self._watch.ended:
            self._say(f"{failed} failed; {self._owner} can stop the other nodes")
            return None
        with ExitStack() as held:
            with suppress(OSError):  # a read-only folder, in which nothing starts
                try:
                    held.enter_context(start_lock(self._run))
                except SoractlError:
                    return self._noted() if self._owner else None
            if read_outcome(self._attempt) or not self._is_newest():
                return None
            if not self._watch.ended:
                self._display.say(f"{failed} failed; stopping all nodes")
                self._stop_all()
            return self._noted()

    def _stop_all(self) -> None:
        record = self._record
        grace_s = GRACE_S_WITHOUT_ALL if self._watch.lost else GRACE_S
        which = Selection(run_id=record.run_id)
        stopped = stop(record.nodes, self._remote, which, grace_s=grace_s)
        if left := [result.node.name for result in stopped if not result.ok]:
            stop_it = to_type("kill", self._run.name)
            self._display.say(f"{fold_names(left)} may still run it; `{stop_it}` stops that")
        self._watch.states = read_states(self._attempt, record.nodes)

    def _noted(self) -> Outcome:
        """The outcome, in exit.json and as an event too where they can be written."""
        outcome = settle(self._attempt, self._record, self._watch.states, self._watch.lost)
        if self._owner:
            return outcome
        try:
            write_json(self._attempt.exit, outcome.as_json())
        except OSError as error:
            self._display.say(f"{self._attempt.exit} cannot be written: {error.strerror}")
        step = self._reader.follow().global_step
        log_end(self._log, self._attempt.number, step, outcome, self._watch.lost)
        return outcome

    def _is_newest(self) -> bool:
        """No later attempt has begun, whose processes have the same run id."""
        newest = last_attempt(self._run)
        return newest is None or newest.number == self._attempt.number

    def _say(self, message: str) -> None:
        if message not in self._shown:
            self._shown.add(message)
            self._display.say(message)
