"""Looks at an attempt: heartbeat, nodes, logs and the trainer's files become one `Look`.

The nodes are asked by the watcher that `launch` and `follow` use, in a thread of its own.
"""

import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from soractl.files.growing import GrowingFile
from soractl.launch.node_watch import NodeWatch, Timing
from soractl.runs.events import EventKind, EventLog, TrainerEvents, read_events
from soractl.runs.node_states import NodeState
from soractl.runs.progress import Progress, ProgressReader
from soractl.runs.record import read_record
from soractl.supervise.observe import Look, NodeLook
from soractl.supervise.step_clock import Phase
from soractl.terminal import text
from trainer.atomic_files import RunDirError, read_json
from trainer.run_dir import AttemptDir, RunDir

# torchrun writes it as soon as a rank is gone, and may then wait half a minute for the others.
_RANK_GONE = re.compile(rb"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_GIVEN_UP = re.compile(rb"checkpoint \S+-global_step(\d+) given up, training goes on: (.+)")


SecondSign = Callable[[float | None], str]  # from the seconds without a step


class Watcher:
    """Looks at one attempt, one after the other."""

    def __init__(
        self,
        run: RunDir,
        attempt: AttemptDir,
        ask: Callable[[], list[NodeState]],
        log: EventLog,
        *,
        look_every_s: float = 5.0,
        second_sign: SecondSign | None = None,
    ) -> None:
        self.record = read_record(attempt)
        self.attempt, self._run, self._log = attempt, run, log
        self._second_sign = second_sign or (lambda without_step_s: "")
        head_log = attempt.node_log(self.record.nodes[0].name)
        self._reader = ProgressReader(run, head_log, attempt.number)
        timing = Timing(look_every_s=look_every_s, cut_off_s=float("inf"))
        self.nodes = NodeWatch(attempt, self.record, ask, timing)
        self._trainers = TrainerEvents(log, attempt)
        self._logs = _Logs(attempt, [node.name for node in self.record.nodes], self.record.ranks)
        self._stops = _Stops(run, attempt)
        self._looks = 0
        self._asked_about: set[str] = set()  # nodes whose bad end the others are asked about
        self._confirmed_at = 0  # number of looks after which all were asked about it
        self._showed_ranks: set[str] = set()
        self._orphaned: set[str] = set()  # nodes of which that was written
        self._first_step: int | None = None
        self.progress = Progress()
        settings = _settings(attempt)
        self._save_every = int(settings.get("checkpoint", {}).get("every_steps") or 0)
        self._validate_every = int(settings.get("validation", {}).get("every_steps") or 0)
        timeout_s = settings.get("trainer", {}).get("collective_timeout_s")
        self.collective_timeout_s = float(timeout_s or float("inf"))

    def look(self) -> Look:
        """The attempt as it is now, or the news that this machine cannot read the run's folder."""
        try:
            self.attempt.plan.stat()  # without it files that are not there mean nothing
            return self._look()
        except OSError as error:
            fault = error.strerror or type(error).__name__
            return Look(at_s=time.monotonic(), nodes=(), head_fault=fault)

    def _look(self) -> Look:
        progress = self.progress = self._reader.follow()
        step = progress.global_step if progress.heartbeat_age_s is not None else None
        if self._first_step is None:
            self._first_step = step
        self._trainers.look(step)
        for saving, reason in self._logs.given_up():
            self._trainers.given_up(saving, reason)
        self.nodes.update(progress)
        failed = self._failed()
        if not self.nodes.ended and self._is_news(failed):
            # A node that is silent may be why, and ranks may train on without their launcher.
            # Without a wait: a dead node takes many seconds, which nobody would look meanwhile.
            self._confirmed_at = self.nodes.ask_soon()
        fresh = self.nodes.looks > self._looks
        self._looks = self.nodes.looks
        answers = {state.node: state for state in self.nodes.answers}
        self._write_orphaned(step)
        self._showed_ranks |= {name for name, state in answers.items() if state.ranks}
        return Look(
            at_s=time.monotonic(),
            nodes=tuple(
                self._node(state, answers.get(state.node), fresh) for state in self.nodes.states
            ),
            step=step,
            phase=self._phase(step),
            failed=failed,
            confirmed=self.nodes.ended or self._looks >= self._confirmed_at,
            stopped=self._stops.look(),
            second_sign=self._second_sign(progress.heartbeat_age_s),
        )

    def _write_orphaned(self, step: int | None) -> None:
        for name, count in self.nodes.orphaned.items():
            if name not in self._orphaned:
                self._orphaned.add(name)
                ranks = text.count(count, "rank trains on", "ranks train on")
                self._log.write(
                    EventKind.ORPHANED,
                    attempt=self.attempt.number,
                    step=step,
                    node=name,
                    text=f"the launcher is gone, {ranks}",
                )

    def _is_news(self, failed: tuple[str, str] | None) -> bool:
        bad = {state.node for state in self.nodes.states if state.exit_code}
        bad |= {failed[0]} if failed else set()
        is_news = not bad <= self._asked_about
        self._asked_about |= bad
        return is_news

    def _node(self, state: NodeState, answer: NodeState | None, fresh: bool) -> NodeLook:
        orphaned = state.node in self.nodes.orphaned
        return NodeLook(
            name=state.node,
            exit_code=None if orphaned else state.exit_code,
            answered=bool(fresh and answer and answer.fault is None),
            vanished=bool(answer and answer.vanished and not state.ended),
            fault=str(answer.fault) if answer and answer.fault else "",
        )

    def _phase(self, step: int | None) -> Phase:
        if step is None:
            everywhere = {node.name for node in self.record.nodes} <= self._showed_ranks
            return "first step" if everywhere else "starting"
        drafts, _ = self._run.steps_of_saves()
        # A draft of an earlier attempt, killed amid its save, says nothing of this one.
        own_drafts = [saving for saving in drafts if saving >= (self._first_step or 0)]
        is_last = step == self.progress.total_steps
        if own_drafts or is_last or (self._save_every and step % self._save_every == 0):
            return "saving"
        if self._validate_every and (step + 1) % self._validate_every == 0:
            return "validating"
        return "training"

    def _failed(self) -> tuple[str, str] | None:
        if killed := self._logs.killed():
            return killed
        with suppress(OSError, RunDirError):
            if accounts := self.attempt.rank_failures():
                rank, error = int(accounts[0]["rank"]), str(accounts[0]["error"])
                return self.record.node_of_rank(rank), f"rank {rank}: {error}"
        return self._logs.ended()


class _Logs:
    """New lines of the nodes' logs, in which torchrun says which of its ranks is gone."""

    def __init__(self, attempt: AttemptDir, nodes: list[str], ranks: tuple[int, ...]) -> None:
        self._files = {node: GrowingFile(attempt.node_log(node)) for node in nodes}
        self._first_rank = {node: sum(ranks[:i]) for i, node in enumerate(nodes)}
        self._gone: list[tuple[str, int, int]] = []  # node, rank, exit code
        self._given_up: list[tuple[int, str]] = []  # step, reason

    def killed(self) -> tuple[str, str] | None:
        """The first rank that a signal ended, except the one by which launchers stop ranks."""
        self._read()
        for node, rank, code in self._gone:
            if code < 0 and -code != signal.SIGTERM:
                name = text.signal_name(-code)
                return node, f"rank {rank}: killed by {name}"
        return None

    def ended(self) -> tuple[str, str] | None:
        """The first rank that ended by itself, without an account."""
        codes = ((node, rank, code) for node, rank, code in self._gone if code > 0)
        return next(((n, f"rank {rank}: exit code {code}") for n, rank, code in codes), None)

    def given_up(self) -> list[tuple[int, str]]:
        """Saves that were given up since the last call: step and reason."""
        self._read()
        found, self._given_up = self._given_up, []
        return found

    def _read(self) -> None:
        for node, file in self._files.items():
            new = b"\n".join(file.new_lines())
            for code, local_rank in _RANK_GONE.findall(new):
                self._gone.append((node, self._first_rank[node] + int(local_rank), int(code)))
            for step, reason in _GIVEN_UP.findall(new):
                self._given_up.append((int(step), reason.decode(errors="replace")))


class _Stops:
    """A stop on purpose: ranks saved and left, or a person asked for it."""

    def __init__(self, run: RunDir, attempt: AttemptDir) -> None:
        self._run, self._attempt = run, attempt
        self._size, self._found = -1, False

    def look(self) -> bool:
        if self._attempt.stopped.exists():
            return True
        with suppress(OSError):
            size = self._run.events.stat().st_size
            if size != self._size:
                self._size, number = size, self._attempt.number
                self._found = any(
                    event.kind == EventKind.STOP_REQUESTED and event.attempt == number
                    for event in read_events(self._run)
                )
        return self._found


def _settings(attempt: AttemptDir) -> dict[str, Any]:
    try:
        return read_json(attempt.config_json)
    except (OSError, RunDirError):
        return {}
