"""Lines and JSON of `supervise`, `stop`, `nodes` and of the supervisor in `status`."""

import time
from typing import Any

from soractl.remote.folding import fold_names
from soractl.supervise.lease import LEASE_S, read_holder
from soractl.supervise.lease import age_s as lease_age_s
from soractl.supervise.process import StartedSupervisor
from soractl.supervise.quarantine import Book
from soractl.supervise.stop import Stopped
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.table import Table
from trainer.run_dir import RunDir


def supervisor_rows(run: RunDir) -> list[tuple[str, str]]:
    """`supervisor  acting on n0 3 s ago: training`; nothing if there never was one."""
    holder, age_s = read_holder(run.supervisor), lease_age_s(run.supervisor)
    if holder is None:
        return []
    state = ": ".join(part for part in (holder.state, holder.reason) if part) or "begins"
    if holder.ended:
        return [("supervisor", f"has left, {state}")]
    ago = "last beat -" if age_s is None else f"{text.duration(age_s)} ago"
    if age_s is not None and age_s > LEASE_S:
        again = f"`{to_type('supervise', run.name)}` takes over"
        where = f"{holder.host} (process {holder.pid}), the last {ago}, {state}"
        return [("supervisor", f"no sign of life from {where}; {again}")]
    does = "watching only" if holder.watch_only else "acting"
    return [("supervisor", f"{does} on {holder.host} (process {holder.pid}), {ago}: {state}")]


def supervisor_json(run: RunDir) -> dict[str, Any] | None:
    """The same for programs; age and life are null where nobody can date the last beat."""
    holder, age_s = read_holder(run.supervisor), lease_age_s(run.supervisor)
    if holder is None:
        return None
    if age_s is None:
        return {**holder.as_json(), "age_s": None, "alive": False if holder.ended else None}
    alive = not holder.ended and age_s <= LEASE_S
    return {**holder.as_json(), "age_s": round(age_s, 1), "alive": alive}


def started_lines(started: StartedSupervisor) -> list[str]:
    """The supervisor that was started, and how to see what it does."""
    name, holder = started.run.name, started.holder
    if holder is None:
        return [f"the supervisor has not begun yet; see {text.path(started.run.supervisor_log)}"]
    if started.stands_by:
        line = f"{name}: stands by for the supervisor on {holder.host} (process {holder.pid})"
    else:
        line = f"{name}: supervised by process {started.pid} on {holder.host}"
    return [line, f"`{to_type('events', name)} --follow` shows what it does"]


def started_json(started: StartedSupervisor) -> dict[str, Any]:
    """The same for programs."""
    holder = started.holder.as_json() if started.holder else None
    return {
        "run": started.run.name,
        "pid": started.pid,
        "stands_by": started.stands_by,
        "holder": holder,
    }


def stopped_lines(stopped: Stopped) -> list[str]:
    """Result of asking ranks to save and leave."""
    name = stopped.run.name
    ranks = text.count(stopped.asked, "rank")
    where = f"{fold_names(stopped.silent)} gave no answer"
    silent = [f"{where}; what is left there is not known"] if stopped.silent else []
    if not stopped.left:
        saved = f"; resumes from {stopped.checkpoint}" if stopped.checkpoint else ""
        return [f"{name}: {ranks} saved and left{saved}", *silent]
    left = ", ".join(
        f"{text.count(n, 'process', 'processes')} on {node}" for node, n in stopped.left
    )
    return [
        f"{name}: {ranks} asked to save and leave; still there: {left}",
        *silent,
        f"`{to_type('kill', name)}` ends them",
    ]


def stopped_json(stopped: Stopped) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": stopped.run.name,
        "ranks": stopped.asked,
        "left": dict(stopped.left),
        "silent": list(stopped.silent),
        "checkpoint": stopped.checkpoint,
    }


def nodes_lines(book: Book) -> list[str | Table]:
    """Nodes that are set apart, and those with strikes."""
    rows = [
        (node.node, "quarantined", _until(node.until_unix_s), node.evidence or "-", node.reason)
        for node in book.nodes.values()
    ]
    rows += [
        (name, text.count(count, "strike"), "-", "-", _last_reason(book, name))
        for name, count in sorted(book.strikes_of().items())
        if name not in book.nodes
    ]
    if not rows:
        return ["no node is set apart, and none has a strike"]
    return [Table(("NODE", "STATE", "UNTIL", "EVIDENCE", "REASON"), tuple(rows), words=1)]


def _until(unix_s: float) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(unix_s))


def _last_reason(book: Book, name: str) -> str:
    last = [strike for strike in book.strikes if strike.node == name][-1]
    return f"{last.run} attempt {last.attempt}: {last.reason}"
