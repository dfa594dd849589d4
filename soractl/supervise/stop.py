"""`stop`: the ranks of a run save at the end of their step and leave; nothing is killed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from soractl.errors import ExitCode, SoractlError, raise_if_interrupted
from soractl.processes.scan import find
from soractl.processes.selection import Process, Selection
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import Remote, Request
from soractl.runs.events import EventKind, EventLog
from soractl.runs.find import last_attempt
from soractl.runs.owner import UNSEEN, refuse_another_users
from soractl.runs.record import read_record
from soractl.terminal.hints import to_type
from trainer.run_dir import RunDir

FIND_DEADLINE_S = 15.0
POLL_S = 1.0


@dataclass(frozen=True)
class Stopped:
    """A run whose ranks were asked to save and leave: what is left on each node."""

    run: RunDir
    asked: int  # ranks
    left: tuple[tuple[str, int], ...] = ()  # node, processes; empty: all are gone
    checkpoint: str | None = None  # the newest complete one
    silent: tuple[str, ...] = ()  # nodes that could not be asked if something is left on them
    by_queue: bool = False  # the run's job has left, which may close its nodes to a login

    @property
    def exit_code(self) -> ExitCode:
        """124 if something is left when the time is over, 4 if that is not known of a node."""
        if self.left:
            return ExitCode.DEADLINE
        return ExitCode.SOME_UNREACHABLE if self.silent and not self.by_queue else ExitCode.OK


def stop_run(run: RunDir, remote: Remote, *, timeout_s: float) -> Stopped:
    """Ask all ranks to save and leave, and wait; SoractlError if nothing runs, or has no rank."""
    refuse_another_users(run, f", {UNSEEN}; nothing was stopped")
    attempt = last_attempt(run)
    record = read_record(attempt) if attempt else None
    if attempt is None or record is None:
        raise SoractlError(f"{run.name} never started", exit_code=ExitCode.NOTHING_SUITABLE)
    which = Selection(run_id=record.run_id)
    found = find(record.nodes, remote, which, deadline_s=FIND_DEADLINE_S)
    raise_if_interrupted((node.fault for node in found), "nothing was stopped")
    ranks = {n.node: [p for p in n.processes if p.role == "rank"] for n in found if n.processes}
    if not any(ranks.values()):
        raise SoractlError(
            f"no rank of {run.name} is running",
            hint=f"`{to_type('kill', run.name)}` ends what else is left of it",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    # Noted first: a supervisor must not take the end for a failure.
    EventLog(run, "stop").write(EventKind.STOP_REQUESTED, attempt=attempt.number)
    _send_term({node: some for node, some in ranks.items() if some}, remote)
    left, silent = left_on(record.nodes, remote, which, timeout_s)
    complete = run.checkpoints()
    newest = complete[-1].name if complete else None
    return Stopped(run, sum(map(len, ranks.values())), left, newest, silent)


def _send_term(ranks: dict[Node, list[Process]], remote: Remote) -> None:
    def request(node: Node) -> Request:
        return Request(("kill", "-TERM", *(str(rank.pid) for rank in ranks[node])))

    run_everywhere(list(ranks), request, remote, deadline_s=FIND_DEADLINE_S)


def left_on(
    nodes: Sequence[Node], remote: Remote, which: Selection, timeout_s: float
) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """Nodes with the number of processes that are left when the time is over; silent nodes.

    Interrupted after Ctrl-C.
    """
    end_s = time.monotonic() + timeout_s
    while True:
        found = find(nodes, remote, which, deadline_s=FIND_DEADLINE_S)
        raise_if_interrupted((n.fault for n in found), "the ranks were asked to save and leave")
        left = tuple((n.node.name, len(n.processes)) for n in found if n.processes)
        if not left or time.monotonic() >= end_s:
            return left, tuple(n.node.name for n in found if n.fault)
        time.sleep(POLL_S)
