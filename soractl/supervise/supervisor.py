"""The supervisor of a run: it looks, keeps its lease, acts on failures, and leaves at the end."""

import errno
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from soractl.cluster.settings import Cluster, SuperviseSettings
from soractl.diagnosis.case_file import read_case
from soractl.diagnosis.why import explain
from soractl.errors import ExitCode, SoractlError
from soractl.processes.stop import StopResult
from soractl.remote.folding import fold_names
from soractl.remote.nodes import Node
from soractl.runs.events import EventKind, EventLog
from soractl.runs.find import last_attempt
from soractl.runs.node_states import KeptLooks
from soractl.runs.post_mortem import Failure, read_outcome, settle
from soractl.runs.record import read_record
from soractl.supervise.act import (
    GAVE_UP,
    UNUSABLE,
    Actor,
    failure_of,
    new_past,
    note_verdict,
    past_attempts,
    unusable_nodes,
)
from soractl.supervise.decide import (
    GiveUp,
    PastAttempt,
    Restart,
    Situation,
    cause_of,
    checkpoint_to_use,
    decide,
)
from soractl.supervise.lease import BEAT_S
from soractl.supervise.observe import Memory, Verdict, first_memory, observe
from soractl.supervise.quarantine import Strike, add_strike, read_book, set_apart
from soractl.supervise.spares import Spares
from soractl.supervise.states import ALIVE, FAILED, State
from soractl.supervise.step_clock import Limits
from soractl.supervise.watch import SecondSign, Watcher
from trainer.atomic_files import folder_time
from trainer.run_dir import AttemptDir

TICK_S = 1.0
WAIT_S = 30.0  # between two tries to start while nodes are missing
KIND_OF = {
    State.SUSPECT: EventKind.SUSPECT,
    State.HUNG: EventKind.HUNG,
    State.CRASHED: EventKind.CRASHED,
    State.LOST: EventKind.LOST,
    State.BLIND: EventKind.BLIND,
}
ANNOUNCED = frozenset((*FAILED, State.BLIND))  # states that people are notified of
Notify = Callable[[str, str], object]
Evidence = Callable[[Watcher, Verdict], "Found"]
Witnesses = Callable[[AttemptDir], SecondSign]


@dataclass(frozen=True)
class Found:
    """Gathered evidence: its folder, and whom it names."""

    path: str | None = None
    text: str = ""
    node: str | None = None
    moves: bool = False  # collectives go on: nothing hangs


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of supervising, in seconds."""

    tick_s: float = TICK_S
    look_every_s: float = 5.0
    beat_s: float = BEAT_S
    wait_s: float = WAIT_S
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Parts of a supervisor beside its run: who is notified, and other witnesses."""

    notify: Notify = lambda kind, text: None
    saw: Callable[[], object] = lambda: None  # after each look that could see
    evidence: Evidence = lambda watcher, verdict: Found()
    witness: Witnesses = lambda attempt: lambda without_step_s: ""


class Supervisor:
    """Watches one run until it ends; acts on it unless `watch_only`."""

    def __init__(
        self,
        actor: Actor,
        cluster: Cluster,
        *,
        watch_only: bool = False,
        timing: Timing | None = None,
        hooks: "Hooks | None" = None,
    ) -> None:
        self._actor, self._run, self._lease = actor, actor.run, actor.lease
        self._settings: SuperviseSettings = cluster.supervise
        self._may_act = not watch_only
        self._timing = timing or Timing()
        self._hooks = hooks or Hooks()
        self._notify = self._hooks.notify
        self._log = EventLog(self._run, "supervisor")
        self._spares = Spares(actor.unfit_spares, self._note_spare)
        self._memory: Memory | None = None
        self._beat_at = 0.0

    def run(self) -> int:
        """Supervise to the end: 0 finished, 93 given up, 1 it failed and only was watched."""
        attempt = last_attempt(self._run)
        if attempt is None:
            raise SoractlError(f"{self._run.name} never started", exit_code=6)
        while True:
            looks = KeptLooks(attempt, read_record(attempt), self._actor.remote)
            watcher = Watcher(
                self._run,
                attempt,
                looks,
                self._log,
                look_every_s=self._timing.look_every_s,
                second_sign=self._hooks.witness(attempt),
            )
            with closing(looks):
                verdict, found = self._watch(watcher)
            if verdict.state is State.FINISHED:
                return self._finished(attempt, watcher, verdict)
            if not self._may_act:
                return self._leave(State(verdict.state), verdict.reason, ExitCode.FAILED)
            try:
                following = self._act(attempt, watcher, verdict, found)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                following = self._seen_again(attempt, error)
            if following is None:
                return ExitCode.GAVE_UP
            attempt = following

    def _watch(self, watcher: Watcher) -> tuple[Verdict, Found]:
        """Look until the run has ended or is to be acted on, and gather evidence then."""
        names = [node.name for node in watcher.record.nodes]
        memory = first_memory(time.monotonic(), names, self._memory)
        limits = self._timing.limits.within(watcher.collective_timeout_s)
        before: Verdict | None = None
        spared: int | None = -1
        slow = False
        while True:
            memory, verdict = observe(memory, watcher.look(), limits)
            self._memory = memory
            if memory.clock.is_slow and not slow:
                text = f"{memory.clock.steps_s[-1]:.3g} s a step"
                self._write(watcher, EventKind.SLOW, text)
            slow = memory.clock.is_slow
            if before is None or verdict.state is not before.state or verdict.node != before.node:
                self._report_change(watcher, before, verdict)
            before = verdict
            if verdict.state is not State.BLIND:
                self._hooks.saw()
            if verdict.state in ALIVE and self._may_act:
                self._spares.look()
            self._beat(verdict)
            is_to_act = verdict.state in FAILED and self._may_act
            found = self._evidence(watcher, verdict) if is_to_act else Found()
            is_over = verdict.state in FAILED and _is_over(watcher)
            is_slow = found.moves and spared != watcher.progress.global_step
            if verdict.state is State.FINISHED or is_over or (is_to_act and not is_slow):
                return verdict, found
            if is_slow:  # its time begins anew, once a step
                spared = watcher.progress.global_step
                self._write(watcher, EventKind.RECOVERED, f"{found.text}, after {verdict.state}")
                now_s = time.monotonic()
                memory = replace(memory, looked_s=now_s, clock=memory.clock.restarted(now_s))
            time.sleep(self._timing.tick_s)

    def _seen_again(self, attempt: AttemptDir, error: OSError) -> AttemptDir:
        """The newest attempt, once this machine can read the run's folder again."""
        lost = Verdict(State.BLIND, str(error))
        self._notify(lost.state, f"{self._run.name} is {lost.state}: {lost.reason}")
        while True:
            with suppress(OSError):
                attempt.plan.read_bytes()
                return last_attempt(self._run) or attempt
            self._sleep(lost)

    def _report_change(self, watcher: Watcher, before: Verdict | None, now: Verdict) -> None:
        unwell = {State.SUSPECT, State.BLIND}
        if now.state in KIND_OF:
            self._write(watcher, KIND_OF[now.state], now.reason, now.node)
        elif before is not None and before.state in unwell and now.state in ALIVE:
            self._write(watcher, EventKind.RECOVERED, f"{now.state}, after {before.state}")
        if now.state in ANNOUNCED:
            where = f"{now.node}: " if now.node else ""
            self._notify(now.state, f"{self._run.name} is {now.state}: {where}{now.reason}")

    def _evidence(self, watcher: Watcher, verdict: Verdict) -> Found:
        self._beat(verdict, now=True)
        found = self._hooks.evidence(watcher, verdict)
        if found.path or found.text:
            self._write(watcher, EventKind.EVIDENCE, found.text, found.node, found.path)
        return found

    def _act(
        self, attempt: AttemptDir, watcher: Watcher, verdict: Verdict, found: Found
    ) -> AttemptDir | None:
        """Kill, decision and the next attempt; None when it gives up."""
        actor, step = self._actor, watcher.progress.global_step
        self._beat(verdict, now=True)
        actor.fence(attempt)
        failure = failure_of(verdict, attempt, watcher.record)
        stopped, facts = actor.clear_and_ask(attempt, self._everyone(watcher))
        killed = sum(len(one.found) for one in stopped)
        self._write(watcher, EventKind.KILLED, f"{killed} processes, verified")
        failure = replace(failure, node=found.node or failure.node)
        actor.settle(attempt, failure, ExitCode.FAILED)
        case = read_case(self._run, attempt, watcher.record, failure, facts)
        cause = cause_of(verdict.state, failure, explain(case))
        newest = new_past(self._run, attempt, cause, step)
        past = (*past_attempts(self._run, attempt), newest)
        if cause.node:
            name, number = self._run.name, attempt.number
            root = self._run.path.parent
            add_strike(root, Strike(cause.node, folder_time(root), name, number, cause.text))
        return self._go_on(attempt, watcher, past, stopped, found, checkpoint_to_use(failure))

    def _everyone(self, watcher: Watcher) -> list[Node]:
        """Nodes of the attempt and those of the host file, as far as that can be read just now."""
        nodes = list(watcher.record.nodes)
        with suppress(*UNUSABLE):
            nodes += self._actor.nodes()
        return list(dict.fromkeys(nodes))

    def _go_on(
        self,
        attempt: AttemptDir,
        watcher: Watcher,
        past: tuple[PastAttempt, ...],
        stopped: Sequence[StopResult],
        found: Found,
        start: str | None,
    ) -> AttemptDir | None:
        waited = ""
        while True:
            try:
                decision = decide(self._situation(past, unusable_nodes(stopped)))
                if isinstance(decision, GiveUp):
                    note_verdict(attempt, past[-1], GAVE_UP)
                    self._write(watcher, EventKind.GAVE_UP, decision.reason)
                    self._notify("given up", f"{self._run.name} is given up: {decision.reason}")
                    self._leave(State.GIVEN_UP, decision.reason, ExitCode.GAVE_UP)
                    return None
                if isinstance(decision, Restart):
                    return self._restarted(attempt, watcher, past, decision, found, start)
                reason = decision.reason
            except UNUSABLE as error:
                self._actor.fence(attempt)
                reason = str(error).replace("\n", " ")
                self._spares.check()
            if reason != waited:
                self._write(watcher, EventKind.WAITING, reason)
                self._notify("waiting", f"{self._run.name} waits: {reason}")
                waited = reason
            self._sleep(Verdict(State.RESTARTING, reason))
            stopped = self._actor.clear(attempt, self._everyone(watcher))

    def _restarted(
        self,
        attempt: AttemptDir,
        watcher: Watcher,
        past: tuple[PastAttempt, ...],
        decision: Restart,
        found: Found,
        start: str | None,
    ) -> AttemptDir:
        self._beat(Verdict(State.RESTARTING), now=True)
        if decision.quarantine:
            set_apart(self._run.path.parent, decision.quarantine, found.path)
            for node, reason in decision.quarantine.items():
                self._write(watcher, EventKind.QUARANTINED, reason, node)
                self._notify("quarantined", f"{node} is set apart: {reason}")
        by_name = {node.name: node for node in self._actor.nodes()}
        note_verdict(attempt, past[-1], "restart")
        following = self._actor.restart(attempt, [by_name[name] for name in decision.nodes], start)
        where = fold_names(decision.nodes)
        self._log.write(EventKind.RESTARTED, attempt=following.number, text=f"on {where}")
        self._notify("restarted", f"{self._run.name} goes on as attempt {following.number}")
        return following

    def _note_spare(self, node: str, words: str) -> None:
        self._log.write(EventKind.SPARE, node=node, text=words)
        self._notify("spare", f"{node}: {words}")

    def _situation(self, past: tuple[PastAttempt, ...], unusable: dict[str, str]) -> Situation:
        nodes, book = self._actor.nodes(), read_book(self._run.path.parent)
        return Situation(
            attempts=past,
            nodes=tuple(node.name for node in nodes if not node.spare),
            spares=tuple(node.name for node in nodes if node.spare),
            unusable={**self._spares.unfit, **unusable},
            quarantined=frozenset(book.nodes),
            strikes=book.strikes_of(),
            min_nodes=self._settings.min_nodes,
            most_starts=self._settings.most_starts,
        )

    def _finished(self, attempt: AttemptDir, watcher: Watcher, verdict: Verdict) -> int:
        if not attempt.exit.exists():
            outcome = settle(attempt, watcher.record, watcher.nodes.states, {})
            stopped = Failure(watcher.record.nodes[0].name, "SIGTERM", stopped=True)
            is_ok = outcome.exit_code == ExitCode.OK
            code = ExitCode.OK if is_ok else ExitCode.TERMINATED
            self._actor.settle(attempt, None if is_ok else stopped, code)
        outcome_now = read_outcome(attempt)
        code = ExitCode(outcome_now.exit_code) if outcome_now else ExitCode.OK
        self._write(watcher, EventKind.ENDED, verdict.reason)
        self._notify("finished", f"{self._run.name} has ended: {verdict.reason}")
        return self._leave(State.FINISHED, verdict.reason, code)

    def _leave(self, state: State, reason: str, code: int) -> int:
        self._lease.renew(state, reason, ended=True)
        return code

    def _beat(self, verdict: Verdict, *, now: bool = False) -> None:
        """Show life; every `beat_s` seconds, or at once."""
        at_s = time.monotonic()
        if now or at_s >= self._beat_at:
            self._beat_at = at_s + self._timing.beat_s
            self._lease.renew(verdict.state, verdict.reason)

    def _sleep(self, verdict: Verdict) -> None:
        end_s = time.monotonic() + self._timing.wait_s
        while time.monotonic() < end_s:
            self._beat(verdict)
            time.sleep(self._timing.tick_s)

    def _write(
        self,
        watcher: Watcher,
        kind: EventKind,
        text: str = "",
        node: str | None = None,
        evidence: str | None = None,
    ) -> None:
        self._log.write(
            kind,
            attempt=watcher.attempt.number,
            step=watcher.progress.global_step,
            node=node,
            text=text,
            evidence=evidence,
        )


def _is_over(watcher: Watcher) -> bool:
    return watcher.nodes.ended or watcher.attempt.exit.exists()
