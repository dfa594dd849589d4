"""Lines and JSON of `doctor`: one page, a line for what is well, a remedy for what is not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from soractl.doctor.examine import Readiness
from soractl.health import health_report
from soractl.health.check import Level
from soractl.health.examine import Health
from soractl.remote.folding import fold_names, fold_pairs
from soractl.remote.nodes import parse_node_list
from soractl.terminal import text
from soractl.terminal.table import Table

HEADERS = ("VERDICT", "SUBJECT", "NODES", "FOUND", "REMEDY")
STYLES = {str(level): style for level, style in health_report.STYLES.items()}
# Subjects of the page, and what their checks' names begin with.
SUBJECTS = {
    "set-up": ("setup",),
    "software": ("same",),
    "shared folder": ("folder",),
    "names": ("name",),
    "port": ("port",),
    "time": ("time",),
    "GPUs": ("gpu",),
    "network": ("ib", "eth", "net"),
    "machine": ("disk", "memory", "process", "limits", "kernel", "cpu"),
    "stage": ("stage",),
}


def lines(found: Readiness) -> list[str | Table]:
    """The page."""
    rows = [row for subject in SUBJECTS for row in _rows(found, subject)]
    rows = [*_lost(found.health), *rows]
    styles = tuple(STYLES.get(row[0], "") for row in rows)
    return [Table(HEADERS, rows, 2, styles)]


def notes(found: Readiness) -> Iterator[str]:
    """Silences, what else is odd, and the count."""
    yield from found.health.notes
    yield from found.notes
    if found.stage is None:
        yield "--stage STAGE looks at its weights, clips and room for checkpoints too"
    yield health_report.count(found.health)


def as_json(found: Readiness) -> dict[str, Any]:
    """All of it, as `health --json` has it, and what is shared."""
    return {
        "stage": found.stage,
        "shared": {check: dict(values) for check, values in found.shared.items()},
        "notes": list(found.notes),
        **health_report.as_json(found.health),
    }


def _lost(health: Health) -> Iterator[tuple[str, ...]]:
    """Nodes that did not answer, first."""
    lost = [(row.node.name, str(row.fault)) for row in health.rows if row.fault]
    for names, reason in fold_pairs(lost):
        first = parse_node_list(names)[0].name
        yield "BAD", "ssh", names, reason, f"`ssh {first} true` by hand says more"
    answered = [row.node.name for row in health.rows if not row.fault]
    if answered:
        yield "good", "ssh", fold_names(answered), "answer in one round trip", ""


def _rows(found: Readiness, subject: str) -> Iterator[tuple[str, ...]]:
    part = _part(found.health, SUBJECTS[subject])
    if not any(row.findings for row in part.rows):
        return
    remedies = {check.id: check.remedy for check in found.health.checks}
    ill = [tuple(map(str, row)) for row in health_report.table(part).rows]
    for level, check, nodes, reason in ill:
        yield level, check, nodes, reason, "" if level == Level.UNKNOWN else remedies[check]
    if not any(row[0] in (Level.BAD, Level.WARNING) for row in ill):
        well = [row.node.name for row in part.rows if not row.fault]
        yield "good", subject, fold_names(well), _summary(found, subject, part), ""


def _part(health: Health, kinds: Sequence[str]) -> Health:
    """The findings of some kinds of checks alone."""
    rows = tuple(
        replace(
            row,
            findings=tuple(f for f in row.findings if f.check.id.partition(".")[0] in kinds),
        )
        for row in health.rows
    )
    return replace(health, rows=rows)


def _summary(found: Readiness, subject: str, part: Health) -> str:
    checks = {f.check.id for row in part.rows for f in row.findings if f.level is Level.GOOD}
    shared = {
        "software": [
            *_values(found, "same.versions"),
            *_of(found, "same.packages"),
        ],
        "machine": [f"kernel {value}" for value in _of(found, "kernel.version")],
        "GPUs": [
            *_of(found, "gpu.product"),
            *(f"driver {value}" for value in _of(found, "gpu.driver_version")),
        ],
        "network": [f"OFED {value}" for value in _of(found, "net.ofed")],
        "stage": [found.stage or ""],
    }.get(subject, [])
    return "; ".join([*([", ".join(shared)] if shared else []), text.count(len(checks), "check")])


def _values(found: Readiness, check: str) -> list[str]:
    values: Mapping[str, str | None] = found.shared.get(check, {})
    return [f"{name} {value}" for name, value in values.items() if value not in (None, "none")]


def _of(found: Readiness, check: str) -> list[str]:
    return [value for value in found.shared.get(check, {}).values() if value]
