"""Failure of an attempt: lost nodes, killed ranks, the ranks' own accounts, the last log lines."""

import math
import re
import signal
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from soractl.errors import ExitCode
from soractl.remote.folding import fold_names
from soractl.runs.events import Event, EventKind, EventLog, operators_stops
from soractl.runs.lost_nodes import VANISHED
from soractl.runs.node_log import tail
from soractl.runs.node_states import NodeState
from soractl.runs.record import AttemptRecord
from soractl.terminal import text
from trainer.atomic_files import RunDirError, folder_time, read_json
from trainer.run_dir import AttemptDir, run_of

TAIL_LINES = 15
STOPPING_S = 300.0  # ranks end their step, and save

# What torchrun and colossalai add once a rank has failed: nothing about the cause.
_TORCHRUN_EPILOGUE = re.compile(
    r"torch/distributed/elastic/.*(closing signal|failed \(exitcode|Received \d+ death signal)"
    r"|Error: failed to run torchrun"
)
_ROOT_CAUSE = re.compile(
    r"Root Cause.*?rank +: (?P<rank>\d+) .*?exitcode +: -(?P<signal>\d+) ", re.DOTALL
)
_TIMEOUT = re.compile(r"[Tt]imed ?out|[Tt]imeout")
_BROKEN = re.compile(r"[Cc]onnection (closed|reset)|[Bb]roken pipe")
_TORCHRUN_STOPPED = re.compile(r"SignalException: Process \d+ got signal: 15")


@dataclass(frozen=True)
class Failure:
    """The first thing that went wrong, as far as is known."""

    node: str
    error: str
    rank: int | None = None
    traceback: str | None = None
    log_tail: tuple[str, ...] = ()
    stopped: bool = False  # on purpose: by a signal to its launcher
    remedy: Mapping[str, Any] | None = None  # of the next attempt, as the trainer's Remedy has it
    lost: tuple[str, ...] = ()  # nodes that do not answer any more


@dataclass(frozen=True)
class Outcome:
    """End of an attempt."""

    exit_code: int
    ended_unix_s: float
    first_failure: Failure | None

    def as_json(self) -> dict[str, Any]:
        """As `exit.json` says it."""
        return {**asdict(self), "exit_code": int(self.exit_code)}


def read_outcome(attempt: AttemptDir) -> Outcome | None:
    """Contents of `exit.json`, if a follower saw the end; a damaged one says nothing."""
    try:
        values = read_json(attempt.exit)
        first = values["first_failure"]
        if not _can_be(values, first):
            return None
        if first:
            tuples = {name: tuple(first.get(name, ())) for name in ("log_tail", "lost")}
            values["first_failure"] = Failure(**{**first, **tuples})
        return Outcome(**values)
    except (OSError, RunDirError, KeyError, TypeError):
        return None


def log_end(
    log: EventLog, number: int, step: int | None, outcome: Outcome, lost: Container[str]
) -> None:
    """Note the end of an attempt, its last step and what it failed of; `lost`: names of nodes."""
    failure = outcome.first_failure
    if failure and not failure.stopped:
        kind = EventKind.LOST if failure.node in lost else EventKind.CRASHED
        log.write(kind, attempt=number, step=step, node=failure.node, text=failure.error)
    text = f"exit code {int(outcome.exit_code)}"
    log.write(EventKind.ENDED, attempt=number, step=step, text=text)


def _can_be(values: Mapping[str, Any], first: Any) -> bool:
    """The values of an `exit.json` are of the kinds that are written there."""
    if not (isinstance(values["exit_code"], int) and 0 <= values["ended_unix_s"] < 1e11):
        return False
    if first is None:
        return True
    texts = (first["node"], first["error"], first.get("traceback") or "")
    remedy = first.get("remedy") or {}
    settings = remedy.get("settings", {}) if isinstance(remedy, dict) else None
    return all(isinstance(text, str) for text in texts) and isinstance(settings, dict)


def settle(
    attempt: AttemptDir, record: AttemptRecord, states: Sequence[NodeState], lost: Mapping[str, str]
) -> Outcome:
    """Outcome of an attempt whose nodes have all ended or are lost."""
    failure = None
    code = ExitCode.OK
    if any(state.exit_code != 0 for state in states):
        failure = first_failure(attempt, record, states, lost)
        code = ExitCode.TERMINATED if failure.stopped else ExitCode.FAILED
    return Outcome(code, folder_time(attempt.path), failure)


def first_failure(
    attempt: AttemptDir, record: AttemptRecord, states: Sequence[NodeState], lost: Mapping[str, str]
) -> Failure:
    """A lost node, else a killed rank, else who stopped it, else a rank's account, else the log.

    Where one node is lost or one rank killed, the others only complain of a broken connection.
    After an operator's command ranks complain of it, and no node without processes is lost.
    """
    stop = _operators_stop(attempt)
    logs = {node.name: tail(attempt.node_log(node.name)) for node in record.nodes}
    for node, reason in lost.items():
        if stop and reason == VANISHED:
            continue
        silent = tuple(name for name, why in lost.items() if why != VANISHED)
        return Failure(node, reason, log_tail=_without_epilogue(logs[node]), lost=silent)
    failed = _earliest_first(attempt, [state for state in states if state.exit_code != 0])
    for state in failed:
        if killed := _killed_rank(state.node, logs[state.node]):
            return killed
    if attempt.stopped.exists():
        return Failure(failed[0].node, _signal(attempt), stopped=True)
    stopped_unix_s = stop.time_unix_s if stop else math.inf
    accounts = [
        one for one in attempt.rank_failures() if float(one["time_unix_s"]) < stopped_unix_s
    ]
    if found := _by_accounts(accounts, record, logs):
        return found
    node, code = failed[0].node, failed[0].exit_code
    if code == ExitCode.TERMINATED or _is_stopped("\n".join(logs[node])):
        return Failure(node, "SIGTERM", stopped=True)
    if stop:
        return Failure(node, f"`soractl {stop.by}`", stopped=True)
    error = f"`colossalai run` ended with exit code {code}"
    return Failure(node, error, log_tail=_without_epilogue(logs[node]))


def failing(attempt: AttemptDir, record: AttemptRecord) -> Failure | None:
    """The failure of which ranks have left an account, while processes of the attempt go on."""
    logs = {node.name: tail(attempt.node_log(node.name)) for node in record.nodes}
    return _by_accounts(attempt.rank_failures(), record, logs)


def _by_accounts(
    accounts: Sequence[Mapping[str, Any]], record: AttemptRecord, logs: Mapping[str, Sequence[str]]
) -> Failure | None:
    if not accounts:
        return None
    return _silent_rank(accounts, record, logs) or _from_account(accounts[0], record, logs)


def _operators_stop(attempt: AttemptDir) -> Event | None:
    """The operator's command that ended an attempt; one after which steps went on did not."""
    run = run_of(attempt.path)
    requests = [
        event
        for event in operators_stops(run, attempt.number)
        if event.kind == EventKind.STOP_REQUESTED
    ]
    with suppress(OSError):
        stepped_unix_s = run.heartbeat.stat().st_mtime
        requests = [one for one in requests if stepped_unix_s < one.time_unix_s + STOPPING_S]
    return requests[0] if requests else None


def _signal(attempt: AttemptDir) -> str:
    with suppress(OSError, RunDirError, KeyError):
        return str(read_json(attempt.stopped)["signal"])
    return "a signal"


def _earliest_first(attempt: AttemptDir, failed: Sequence[NodeState]) -> list[NodeState]:
    def ended_unix_s(state: NodeState) -> float:
        try:
            return attempt.node_exit(state.node).stat().st_mtime
        except OSError:
            return math.inf

    return sorted(failed, key=ended_unix_s)


def _from_account(
    account: Mapping[str, Any], record: AttemptRecord, logs: Mapping[str, Sequence[str]]
) -> Failure:
    node = record.node_of_rank(int(account["rank"]))
    return Failure(
        node,
        str(account["error"]),
        rank=int(account["rank"]),
        traceback=account["traceback"],
        remedy=account.get("remedy"),
        log_tail=_without_epilogue(logs[node]),
    )


def _silent_rank(
    accounts: Sequence[Mapping[str, Any]], record: AttemptRecord, logs: Mapping[str, Sequence[str]]
) -> Failure | None:
    """The rank that most others waited for until the collective timeout, if they only waited."""
    timed_out = [one for one in accounts if _TIMEOUT.search(str(one["error"]))]
    # The first that leaves breaks its connections to those that still wait.
    if not timed_out or not all(
        _BROKEN.search(str(o["error"])) for o in accounts if o not in timed_out
    ):
        return None
    world_size = sum(record.ranks)
    writers = {int(account["rank"]) for account in accounts}
    with_accounts = {record.node_of_rank(rank) for rank in writers}

    def may_be_ended(rank: int) -> bool:
        """Its node's launcher ends a rank, before it writes, once another there has failed."""
        return record.node_of_rank(rank) in with_accounts

    missing = sorted(set(range(world_size)) - writers, key=lambda rank: (may_be_ended(rank), rank))
    if len(missing) * 2 > world_size - all(map(may_be_ended, missing)):
        return None  # too few accounts to say who was waited for
    rank = missing[0] if missing else int(timed_out[-1]["rank"])
    node = record.node_of_rank(rank)
    error = "the other ranks waited for it until the collective timeout"
    if others := missing[1:]:
        nodes = fold_names(list(map(record.node_of_rank, others)))
        error += f", and for {text.count(len(others), 'rank')} more on {nodes}"
    return Failure(node, error, rank=rank, log_tail=_without_epilogue(logs[node]))


def _killed_rank(node: str, log: Sequence[str]) -> Failure | None:
    found = _ROOT_CAUSE.search("\n".join(log))
    if found is None or int(found["signal"]) == signal.SIGTERM:
        return None
    name = text.signal_name(int(found["signal"]))
    hint = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
    return Failure(
        node,
        f"killed by {name}{hint}",
        rank=int(found["rank"]),
        log_tail=_without_epilogue(log),
    )


def _is_stopped(log: str) -> bool:
    """True if torchrun got TERM, or a rank that could not save yet."""
    found = _ROOT_CAUSE.search(log)
    is_rank = found is not None and int(found["signal"]) == signal.SIGTERM
    return is_rank or _TORCHRUN_STOPPED.search(log) is not None


def _without_epilogue(log: Sequence[str]) -> tuple[str, ...]:
    end = next((i for i, line in enumerate(log) if _TORCHRUN_EPILOGUE.search(line)), len(log))
    return tuple(log[max(0, end - TAIL_LINES) : end])
