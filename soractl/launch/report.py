"""Lines and JSON of `launch` and `resume`: the plan, the start, the end."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from soractl.errors import SoractlError
from soractl.estimate.report import as_json as estimate_json
from soractl.estimate.report import one_line as estimate_line
from soractl.estimate.stage import StageEstimate, estimate_of, gpu_and_runs
from soractl.launch.plan import NodePlan
from soractl.launch.preflight import Findings
from soractl.launch.prepare import Prepared
from soractl.launch.start import Started
from soractl.runs.post_mortem import Outcome
from soractl.runs.progress import Progress
from soractl.runs.record import read_record
from soractl.runs.report import checkpoints, failure_details, failure_line, next_lines
from soractl.terminal import text
from soractl.terminal.hints import to_type
from soractl.terminal.lines import Command, Verbatim
from soractl.terminal.table import Table
from trainer.atomic_files import RunDirError
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import settings

LABELS = len("workdir")


def summary(prepared: Prepared) -> list[str]:
    """The start to come, in a few lines."""
    plan, source = prepared.plan, prepared.site.source
    ranks = text.count(plan.world_size, "rank")
    nodes = text.count(len(plan.nodes), "node")
    lines = text.pairs(
        [
            ("run", f"{text.path(plan.run)}{' (next attempt)' if prepared.run else ''}"),
            ("stage", prepared.stage),
            ("start", _start(prepared)),
            ("nodes", f"{ranks} on {nodes}: {source.origin}"),
        ],
        LABELS,
    )
    return lines + [f"note: {note}" for note in prepared.notes]


def whole_plan(prepared: Prepared, found: Findings | None) -> list[str | Table]:
    """Everything that would happen, and what is in the way; `found` None: nobody was asked."""
    plan = prepared.plan
    cluster_file = text.path(prepared.site.cluster_file) if prepared.site.cluster_file else "-"
    lines: list[str | Table] = [*summary(prepared)]
    lines += text.pairs([("cluster", cluster_file), ("workdir", plan.workdir)], LABELS)
    lines += ["", "settings that are not those of every stage"]
    lines += [Table(("setting", "value", "from"), _own_settings(prepared), words=2)]
    shared = _shared_environment(plan.nodes)
    lines += ["", "environment of every rank, beside its node's HOME, USER and LANG"]
    lines += [Verbatim(f"  {key}={value}") for key, value in shared.items()]
    lines += [""]
    for node in plan.nodes:
        own = [f"{key}={value}" for key, value in node.environment.items() if key not in shared]
        where = "here" if node.node.local else f"ssh {node.node.name}"
        lines += [f"{node.node.name}: {text.count(node.ranks, 'rank')}, {where}"]
        lines += [Command(f"  {' '.join([*own, *node.command])}")]
    lines += ["", *(f"estimate: {line}" for line in _estimate_lines(prepared))]
    return [*lines, *_readiness(prepared, found)]


def _readiness(prepared: Prepared, found: Findings | None) -> list[str]:
    missing = [f"missing: {what}" for what in prepared.missing]
    if found is None:
        return [*missing, "--force: no node was asked whether it is ready"]
    lines = [*missing, *(f"note: {note}" for note in found.notes)]
    if found.faults:
        lines += ["not ready:", *(f"  {fault}" for fault in found.faults)]
        return [*lines, f"hint: {found.hint}"] if found.hint else lines
    return lines if missing else [*lines, "ready to start"]


def plan_json(prepared: Prepared, found: Findings | None) -> dict[str, Any]:
    """The same for programs."""
    return {
        "run": prepared.plan.run.name,
        "stage": prepared.stage,
        "source": prepared.site.source.origin,
        "missing": prepared.missing,
        "asked": found is not None,
        "faults": list(found.faults) if found else [],
        "notes": [*prepared.notes, *(found.notes if found else ())],
        "plan": prepared.plan.as_json(),
        "estimate": _estimate_json(prepared),
    }


def _estimate(prepared: Prepared) -> StageEstimate | None:
    """Of a new run; None where it goes on, or where the table is not there.

    SoractlError if no step comes of it.
    """
    table = prepared.site.workdir / prepared.config.data.path
    if prepared.run is not None or not table.exists():
        return None
    gpu, runs = gpu_and_runs(None, str(prepared.plan.run.parent))
    ranks = prepared.plan.world_size
    return estimate_of(prepared.stage, prepared.config, table, ranks, gpu, runs)


def _estimate_lines(prepared: Prepared) -> list[str]:
    try:
        found = _estimate(prepared)
    except SoractlError as fault:
        return [str(fault)]
    return [estimate_line(found, prepared.site.cluster.price_per_gpu_hour)] if found else []


def _estimate_json(prepared: Prepared) -> dict[str, Any] | None:
    try:
        found = _estimate(prepared)
    except SoractlError as fault:
        return {"error": str(fault)}
    return estimate_json(found, prepared.site.cluster.price_per_gpu_hour) if found else None


def started(begun: Started) -> list[str]:
    """That it runs, and what to type while it does."""
    name, number = begun.run.name, begun.attempt.number
    return [
        f"started {name}, attempt {number}; logs: {text.path(begun.attempt.path)}/",
        *text.pairs(
            [
                (f"  {to_type('follow', name)}", "follow it to its end"),
                (f"  {to_type('status', name)}", "how far it is"),
                (f"  {to_type('logs', name)}", "what its ranks print"),
                (f"  {to_type('kill', name)}", "stop it on all nodes"),
            ]
        ),
    ]


def attempt_json(run: RunDir, attempt: AttemptDir) -> dict[str, Any]:
    """An attempt for programs: its run, and where it runs."""
    record = read_record(attempt)
    return {
        "run": run.name,
        "path": str(run.path),
        "attempt": attempt.number,
        "world_size": sum(record.ranks),
        "nodes": [node.name for node in record.nodes],
    }


def detached(run: RunDir) -> str:
    """The consequence of Ctrl-C, which stops only the watching."""
    return f"{run.name} goes on; `{to_type('follow', run.name)}` follows it again"


def outcome(run: RunDir, attempt: AttemptDir, ended: Outcome, progress: Progress) -> list[str]:
    """An attempt's end, its reason, and the next thing to do."""
    failure = ended.first_failure
    step = f" at step {progress.global_step}" if progress.global_step is not None else ""
    took = ""
    with suppress(OSError, RunDirError):  # the plan cannot be read any more
        took = f" after {text.duration(ended.ended_unix_s - read_record(attempt).started_unix_s)}"
    saved = checkpoints(run)
    if failure is None:
        return [f"{run.name} ended well{step}{took}", saved]
    if failure.stopped:
        lines = [f"{run.name} was stopped by {failure.error}{step}{took}"]
    else:
        lines = [f"{run.name} failed{step}{took}: {failure_line(failure)}"]
    lines += [*failure_details(failure), f"logs: {text.path(attempt.path)}/", saved]
    return [*lines, *next_lines(run, failure)]


def outcome_json(
    run: RunDir, attempt: AttemptDir, ended: Outcome, progress: Progress
) -> dict[str, Any]:
    """The same for programs."""
    return {**attempt_json(run, attempt), **ended.as_json(), "progress": asdict(progress)}


def _start(prepared: Prepared) -> str:
    start = prepared.plan.start
    if start.missing:
        return f"missing: {start.missing}"
    if start.path is None:
        return "random weights"
    words = {"init_from": "the weights of", "resume": "everything from"}
    anew = ", data from the beginning of the epoch" if start.reset_data else ""
    return f"{words[start.kind]} {text.path(start.path)}{anew}"


def _own_settings(prepared: Prepared) -> list[tuple[str, str, str]]:
    values = settings(prepared.config)
    return [
        (key, text.value(values[key]), origin)
        for key, origin in prepared.origins.items()
        if not origin.endswith(("parts/base.toml", "config.json"))
    ]


def _shared_environment(nodes: tuple[NodePlan, ...]) -> Mapping[str, str]:
    first = nodes[0].environment
    return {
        key: value
        for key, value in first.items()
        if all(node.environment.get(key) == value for node in nodes)
    }
