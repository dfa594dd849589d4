"""Lines and JSON of `supervise`, `stop`, `nodes`, `report` and the supervisor in `status`."""

import time
from typing import Any

from soractl.runs.goodput import Account
from soractl.supervise.lease import Holder
from soractl.supervise.process import StartedSupervisor
from soractl.supervise.quarantine import Book
from soractl.supervise.stop import Stopped
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.table import Table


def supervisor_lines(holder: Holder | None) -> list[str]:
    """`supervisor  acting on n0 (process 4711): training`; nothing if there never was one."""
    if holder is None:
        return []
    if holder.ended:
        left = ": ".join(part for part in (f"has left, {holder.state}", holder.reason) if part)
        return text.pairs([("supervisor", left)])
    does = "watching only" if holder.watch_only else "acting"
    state = ": ".join(part for part in (holder.state, holder.reason) if part)
    where = f"{does} on {holder.host} (process {holder.pid})"
    return text.pairs([("supervisor", f"{where}: {state or 'begins'}")])


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
    """What became of the ranks that were asked to save and leave."""
    name = stopped.run.name
    ranks = text.count(stopped.asked, "rank")
    if not stopped.left:
        saved = f"; resumes from {stopped.checkpoint}" if stopped.checkpoint else ""
        return [f"{name}: {ranks} saved and left{saved}"]
    left = ", ".join(
        f"{text.count(n, 'process', 'processes')} on {node}" for node, n in stopped.left
    )
    return [
        f"{name}: {ranks} asked to save and leave; still there: {left}",
        f"`{to_type('kill', name)}` ends them",
    ]


def stopped_json(stopped: Stopped) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": stopped.run.name,
        "ranks": stopped.asked,
        "left": dict(stopped.left),
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


def figures(found: Account) -> list[tuple[str, str]]:
    """The account's figures: names and values."""
    rows = [
        ("wall time", text.duration(found.wall_s)),
        ("ETTR", f"{100 * found.ettr:.1f} %"),
        ("interruptions", str(len(found.interruptions))),
    ]
    means = (("MTTI", found.mtti_s), ("MTTR", found.mttr_s), ("RPO", found.rpo_s))
    rows += [(name, text.duration(value)) for name, value in means if value is not None]
    rows.append(("GPU-hours", _hours_and_cost(found, found.gpu_hours)))
    if found.timeout_alone_s:
        gpus = max(found.gpus.values())
        hours = _hours_and_cost(found, found.timeout_alone_s * gpus / 3600)
        rows.append(("with the collective timeout alone", f"{hours} more"))
    return rows


def report_lines(found: Account) -> list[str | Table]:
    """The account of a run's time, and its interruptions by cause."""
    parts = [
        (str(part), text.duration(seconds), f"{100 * seconds / found.wall_s:.1f} %")
        for part, seconds in found.seconds.items()
        if seconds and found.wall_s
    ]
    lines: list[str | Table] = [
        *text.pairs([("run", found.run), *figures(found)]),
        "",
        Table(("PART", "TIME", "SHARE"), (*parts, ("all", text.duration(found.wall_s), "100.0 %"))),
    ]
    if found.interruptions:
        rows = [
            (
                *(one.attempt, one.state, one.cause, one.node or "-"),
                *("-" if one.step is None else one.step, one.lost_steps),
                text.duration(one.detected_s),
                "-" if one.repaired_s is None else text.duration(one.repaired_s),
                one.text,
            )
            for one in found.interruptions
        ]
        headers = (
            "ATTEMPT",
            "STATE",
            "CAUSE",
            "NODE",
            "STEP",
            "LOST STEPS",
            "DETECTED",
            "REPAIRED",
        )
        lines += ["", Table((*headers, "REASON"), tuple(rows), words=1)]
    return lines


def report_json(found: Account) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": found.run,
        "begin_unix_s": found.begin_unix_s,
        "end_unix_s": found.end_unix_s,
        "wall_s": found.wall_s,
        "seconds": {str(part): seconds for part, seconds in found.seconds.items()},
        "ettr": found.ettr,
        "mtti_s": found.mtti_s,
        "mttr_s": found.mttr_s,
        "rpo_s": found.rpo_s,
        "gpu_hours": found.gpu_hours,
        "cost": found.cost(found.gpu_hours),
        "timeout_alone_s": found.timeout_alone_s,
        "interruptions": [vars(one) for one in found.interruptions],
    }


def _hours_and_cost(found: Account, gpu_hours: float) -> str:
    cost = found.cost(gpu_hours)
    return f"{gpu_hours:.1f}" if cost is None else f"{gpu_hours:.1f} (cost {cost:.2f})"


def _until(unix_s: float) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(unix_s))


def _last_reason(book: Book, name: str) -> str:
    last = [strike for strike in book.strikes if strike.node == name][-1]
    return f"{last.run} attempt {last.attempt}: {last.reason}"
