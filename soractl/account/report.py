"""Lines and JSON of `report`, and the account of a run in `status`."""

from typing import Any

from soractl.account.goodput import Account
from soractl.terminal import text
from soractl.terminal.table import Table


def goodput_rows(found: Account | None) -> list[tuple[str, str]]:
    """`goodput` of `status`: 87.3 % of 3:12:00 in steps that count, 2 restarts."""
    if found is None or not found.wall_s:
        return []
    wall = text.duration(found.wall_s)
    restarts = text.count(found.restarts, "restart")
    return [("goodput", f"{100 * found.ettr:.1f} % of {wall} in steps that count, {restarts}")]


def goodput_json(found: Account | None) -> dict[str, Any]:
    """The same for programs; None for a run that never started."""
    if found is None:
        return {"goodput": None}
    values = {"ettr": found.ettr, "wall_s": found.wall_s, "restarts": found.restarts}
    return {"goodput": {**values, "interruptions": len(found.interruptions)}}


def figures(found: Account) -> list[tuple[str, str]]:
    """The account's figures: names and values."""
    rows = [
        ("wall time", text.duration(found.wall_s)),
        ("ETTR", f"{100 * found.ettr:.1f} %"),
        ("interruptions", str(len(found.interruptions))),
    ]
    means = (("MTTI", found.mtti_s), ("MTTR", found.mttr_s), ("RPO", found.rpo_s))
    rows += [(name, text.duration(value)) for name, value in means if value is not None]
    energy = "not known" if found.energy_kwh is None else _energy(found, found.energy_kwh)
    rows.append(("energy of the GPUs", energy))
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
        lines += ["", causes_table(found)]
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
            "KIND",
            "NODE",
            "STEP",
            "LOST STEPS",
            "DETECTED",
            "REPAIRED",
        )
        lines += ["", Table((*headers, "REASON"), tuple(rows), words=1)]
    return lines


def causes_table(found: Account) -> Table:
    """Interruptions by cause."""
    rows = [
        (row.kind, row.count, f"{100 * row.share:.1f} %", text.duration(row.lost_s), row.name)
        for row in found.causes
    ]
    lost = text.duration(sum(row.lost_s for row in found.causes))
    rows.append(("all", len(found.interruptions), "100.0 %", lost, ""))
    return Table(("KIND", "COUNT", "SHARE", "LOST", "CAUSE"), tuple(rows), words=1)


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
        "energy_kwh": found.energy_kwh,
        "energy_known": found.energy_known if found.energy_kwh is not None else None,
        "energy_cost": found.energy_cost,
        "timeout_alone_s": found.timeout_alone_s,
        "causes": [vars(row) for row in found.causes],
        "interruptions": [vars(one) for one in found.interruptions],
    }


def _energy(found: Account, kwh: float) -> str:
    """`131.2 kWh (cost 39.36), known for 98 % of the time`: what is unknown is in no sum."""
    cost = "" if found.energy_cost is None else f" (cost {found.energy_cost:.2f})"
    known = found.energy_known
    share = "" if known > 0.995 else f", known for {100 * known:.0f} % of the time"
    return f"{kwh:.1f} kWh{cost}{share}"


def _hours_and_cost(found: Account, gpu_hours: float) -> str:
    cost = found.cost(gpu_hours)
    return f"{gpu_hours:.1f}" if cost is None else f"{gpu_hours:.1f} (cost {cost:.2f})"
