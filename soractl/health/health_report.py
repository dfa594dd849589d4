"""Lines and JSON of `health`: findings folded by verdict, then check, then nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from soractl.health.check import CONTEXTS, Check, Finding, Level
from soractl.health.examine import COUNTED_DAYS, Health, NodeHealth, Past
from soractl.remote.folding import fold_lines, fold_names
from soractl.terminal import text
from soractl.terminal.table import Table

HEADERS = ("VERDICT", "CHECK", "NODES", "FOUND")
SINCE_HEADERS = ("VERDICT", "CHECK", "NODES", "SINCE", "FOUND")
LIST_HEADERS = ("CHECK", "SEVERITY", "BY", "CONTEXTS", "LOOKS AT", "REMEDY")
ORDER = (Level.BAD, Level.WARNING, Level.UNKNOWN)
STYLES = {Level.BAD: "red", Level.WARNING: "yellow", Level.UNKNOWN: "dim"}
WORDS = {level: str(level) for level in Level} | {Level.WARNING: "with warnings"}
SHOWN_ITEMS = 8
SHOWN_CHECKS = 2
NAGIOS = {0: "OK", 1: "WARNING", 2: "CRITICAL", 3: "UNKNOWN"}


def table(found: Health) -> Table:
    """A row for each finding that is not good; equal ones of several nodes are one row."""
    rows, styles = [], []
    for level in ORDER:
        things = _things(found, level)
        for (check, reason), names in _folded(found, level).items():
            since = [_since(found.past, things.get((check, reason), ()))] if found.past else []
            rows.append((str(level), check, fold_names(names), *since, reason))
            styles.append(STYLES[level])
    return Table(SINCE_HEADERS if found.past else HEADERS, rows, 1, tuple(styles))


def _things(found: Health, level: Level) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """Nodes, checks and things of each row of the table."""
    same: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for row in found.rows:
        for key, findings in _grouped(row, level).items():
            same.setdefault(key, []).extend((row.node.name, key[0], f.item) for f in findings)
    return same


def _since(past: Past, things: Sequence[tuple[str, str, str]]) -> str:
    """`3 h`, `2 h to 5 d`, `new, 4 times in 7 d`; empty for what is unknown.

    What was bad at the first look of its check may be so for longer: `3 h or more`.
    """
    since = [past.since[thing] for thing in things if thing in past.since]
    if not since:
        return ""
    newest, oldest = (pick(since, key=lambda s: s.unix_s) for pick in (max, min))
    ages = [_age(past.now_unix_s - one.unix_s, one.is_first_look) for one in (newest, oldest)]
    times = max(one.times for one in since)
    often = f", {times} times in {COUNTED_DAYS} d" if times > 1 else ""
    return " to ".join(dict.fromkeys(ages)) + often


def _age(seconds: int, is_first_look: bool) -> str:
    if seconds <= 0:
        return "first look" if is_first_look else "new"
    size, unit = next((n, u) for n, u in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
                      if seconds >= n)  # fmt: skip
    return f"{seconds // size} {unit}{' or more' if is_first_look else ''}"


def lines(found: Health) -> list[str | Table]:
    """The table, if there is anything in it."""
    shown = table(found)
    return [shown] if shown.rows else ["nothing is bad"] if _answers(found) else []


def notes(found: Health) -> Iterator[str]:
    """Nodes without an answer, remedies, silences, and the count."""
    yield from fold_lines((row.node.name, str(row.fault)) for row in found.rows if row.fault)
    yield from remedies(found)
    yield from found.notes
    muted = [(row.node.name, s) for row in found.rows for s in row.silenced]
    yield from dict.fromkeys(f"silenced: {f.check.id}: {reason}" for _, (f, reason) in muted)
    yield count(found)


def remedies(found: Health) -> Iterator[str]:
    """Remedies of checks that are not good, each once."""
    ill = {
        finding.check.id: finding.check
        for level in (Level.BAD, Level.WARNING)
        for row in found.rows
        for finding in row.findings
        if finding.level is level
    }
    return (f"{check.id}: {check.remedy}" for check in ill.values())


def count(found: Health) -> str:
    """`hosts.txt: 22 good, 1 BAD, 1 unreachable by 95 checks in 0.8 s; 4 verdicts unknown`."""
    levels = [str(row.fault.kind) if row.fault else WORDS[row.worst] for row in found.rows]
    parts = [f"{levels.count(level)} {level}" for level in sorted(set(levels), key=levels.index)]
    checks = text.count(len(found.checks), "check")
    line = f"{found.source.origin}: {', '.join(parts)} by {checks} in {found.elapsed_s:.1f} s"
    unknown = sum(f.level is Level.UNKNOWN for row in found.rows for f in row.findings)
    return f"{line}; {text.count(unknown, 'verdict')} unknown" if unknown else line


def nagios(found: Health) -> tuple[int, list[str]]:
    """Exit code and lines as Nagios reads them: 0 good, 1 warning, 2 critical, 3 unknown."""
    worst = {row.worst for row in found.rows if not row.fault}
    if Level.BAD in worst:
        code = 2
    elif any(row.fault for row in found.rows) or not worst or worst == {Level.UNKNOWN}:
        code = 3
    else:
        code = 1 if Level.WARNING in worst else 0
    numbers = {level: len(_folded(found, level)) for level in ORDER}
    data = " ".join(f"{level.lower()}={number}" for level, number in numbers.items())
    shown = table(replace(found, past=None)).rows
    rows = (f"{level} {check} {names} {what}" for level, check, names, what in shown)
    return code, [f"HEALTH {NAGIOS[code]} - {count(found)} | {data}", *rows]


def list_table(checks: Sequence[Check]) -> Table:
    """All checks, a row each."""
    return Table(LIST_HEADERS, [list_cells(check) for check in checks], words=2)


def list_cells(check: Check) -> tuple[str, ...]:
    """Id, severity, source, contexts, what is looked at, remedy."""
    contexts = "all" if check.contexts == CONTEXTS else ", ".join(check.contexts)
    what = f"{check.title} ({check.of}: {check.field})"
    return (check.id, str(check.level), check.source, contexts, what, check.remedy)


def list_json(checks: Sequence[Check]) -> dict[str, Any]:
    """All checks for programs."""
    return {
        "checks": [
            {
                "check": check.id,
                "severity": check.level,
                "source": check.source,
                "contexts": check.contexts,
                "kind": check.of,
                "field": check.field,
                "remedy": check.remedy,
            }
            for check in checks
        ]
    }


def as_json(found: Health) -> dict[str, Any]:
    """All of it; of what is good only the checks' names."""
    return {
        "elapsed_s": found.elapsed_s,
        "checks": [check.id for check in found.checks],
        "nodes": [_node_json(row, found.past) for row in found.rows],
    }


def _node_json(row: NodeHealth, past: Past | None) -> dict[str, Any]:
    counted = [(f, None) for f in row.findings if f.level is not Level.GOOD]
    return {
        "node": row.node.name,
        "error": str(row.fault) if row.fault else None,
        "verdict": None if row.fault else row.worst,
        "elapsed_s": row.elapsed_s,
        "findings": [
            {**_finding_json(f, reason), **_since_json(f, row, past)}
            for f, reason in (*counted, *row.silenced)
        ],
        "good": list(dict.fromkeys(f.check.id for f in row.findings if f.level is Level.GOOD)),
    }


def _finding_json(finding: Finding, silence: str | None = None) -> dict[str, Any]:
    return {
        "check": finding.check.id,
        "verdict": finding.level,
        "source": finding.check.source,
        "item": finding.item or None,
        "reason": finding.reason,
        "remedy": finding.check.remedy,
        "silenced": silence,
    }


def _since_json(finding: Finding, row: NodeHealth, past: Past | None) -> dict[str, Any]:
    if not past:
        return {}
    since = past.since.get((row.node.name, finding.check.id, finding.item))
    return {
        "since_unix_s": since.unix_s if since else None,
        "since_first_look": since.is_first_look if since else None,
        f"times_in_{COUNTED_DAYS}_days": since.times if since else None,
    }


def _answers(found: Health) -> bool:
    return any(row.fault is None for row in found.rows)


def _folded(found: Health, level: Level) -> dict[tuple[str, str], list[str]]:
    """Names of nodes by check and reason; what is unknown for one reason is one entry."""
    same: dict[tuple[str, str], list[str]] = {}
    for row in found.rows:
        for key in sentences(row, level):
            same.setdefault(key, []).append(row.node.name)
    return same


def _grouped(row: NodeHealth, level: Level) -> dict[tuple[str, str], list[Finding]]:
    """Findings of a level by check and sentence; equal ones of several things are one entry."""
    items: dict[tuple[str, str], list[Finding]] = {}
    for finding in row.findings:
        if finding.level is level:
            items.setdefault((finding.check.id, finding.reason), []).append(finding)
    return {
        (check, _thing(findings) + reason + _source(findings[0])): findings
        for (check, reason), findings in items.items()
    }


def sentences(row: NodeHealth, level: Level) -> Iterator[tuple[str, str]]:
    """Checks and a sentence for each finding of a level; equal ones of several things are one."""
    shown = _grouped(row, level)
    if level is not Level.UNKNOWN:
        yield from shown
        return
    checks_of: dict[str, list[str]] = {}
    for check, reason in shown:
        checks_of.setdefault(reason, []).append(check)
    for reason, checks in checks_of.items():
        many = f"{len(checks)} checks" if len(checks) > SHOWN_CHECKS else ", ".join(checks)
        yield many, reason


def _thing(findings: Sequence[Finding]) -> str:
    """`GPU 0,3: `, `mlx5_0/1: `; nothing for what a node has once."""
    items = [finding.item for finding in findings if finding.item]
    if not items:
        return ""
    kind = "GPU " if findings[0].check.of == "gpu" else ""
    if len(items) > SHOWN_ITEMS:
        return f"{kind}{','.join(items[:SHOWN_ITEMS])},...: "
    return f"{kind}{','.join(items)}: "


def _source(finding: Finding) -> str:
    known = finding.level is not Level.UNKNOWN and finding.check.source != "threshold"
    return f" ({finding.check.source})" if known else ""
