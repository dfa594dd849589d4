"""Lines and JSON of `sync`: the plan with every command, or the result."""

import shlex
from collections.abc import Mapping
from typing import Any

from soractl.sync.copy import DAMAGED_AT_SOURCE, Synced
from soractl.sync.plan import SyncPlan
from soractl.terminal import text
from soractl.terminal.lines import Verbatim

_AGAIN = "; it is copied again next time"


def plan_lines(plan: SyncPlan) -> list[str]:
    """The plan: what, where, how."""
    lines = [f"would copy {item.checkpoint.name}  {text.size(item.bytes)}" for item in plan.copies]
    lines += [f"is not complete: {name}: {why}" for name, why in plan.incomplete.items()]
    lines += [Verbatim(shlex.join(argv)) for argv in plan.commands]
    return [
        *lines,
        f"would copy {_checkpoints(len(plan.copies))}, {text.size(plan.bytes)}{_there(plan)}",
    ]


def plan_json(plan: SyncPlan) -> dict[str, Any]:
    """The plan for programs."""
    return {**_facts(plan), "commands": plan.commands}


def lines(synced: Synced) -> list[str]:
    """Copied checkpoints, the others with the reason, and the count."""
    plan = synced.plan
    faults = [
        f"{name}: {file} {fault}{_AGAIN if fault != DAMAGED_AT_SOURCE else ''}"
        for name, files in synced.broken.items()
        for file, fault in files.items()
    ]
    results = [
        f"copied {plan.copy_of_run.checkpoints_folder / item.checkpoint.name}"
        for item in synced.copied
    ]
    results += [f"{name} was removed at the source meanwhile" for name in synced.gone]
    results += [f"is not complete: {name}: {why}" for name, why in plan.incomplete.items()]
    return [*results, *faults, _count(synced)]


def as_json(synced: Synced) -> dict[str, Any]:
    """The same for programs."""
    return {
        **_facts(synced.plan),
        "copied": [item.checkpoint.name for item in synced.copied],
        "gone": synced.gone,
        "broken": synced.broken,
        "elapsed_s": synced.elapsed_s,
    }


def _facts(plan: SyncPlan) -> dict[str, Any]:
    to_copy: list[Mapping[str, Any]] = [
        {"checkpoint": item.checkpoint.name, "bytes": item.bytes} for item in plan.copies
    ]
    return {
        "run": plan.run.name,
        "source": str(plan.endpoints.source),
        "destination": str(plan.endpoints.destination),
        "planned": to_copy,
        "planned_bytes": plan.bytes,
        "already_there": list(plan.there),
        "incomplete": dict(plan.incomplete),
    }


def _count(synced: Synced) -> str:
    plan = synced.plan
    if not plan.copies:
        return f"nothing to do{_there(plan)}"
    size = sum(item.bytes for item in synced.copied)
    words = f"copied {_checkpoints(len(synced.copied))}, {text.size(size)}"
    words += f" in {text.duration(synced.elapsed_s)}"
    if size and synced.elapsed_s:
        words += f" ({text.size(size / synced.elapsed_s)}/s)"
    failed = f", {len(synced.broken)} broken" if synced.broken else ""
    return f"{words}{_there(plan)}{failed}"


def _there(plan: SyncPlan) -> str:
    return f"; {_checkpoints(len(plan.there))} there already" if plan.there else ""


def _checkpoints(number: int) -> str:
    return text.count(number, "checkpoint")
