"""Commands that start attempts and follow them: `launch`, `resume` and `follow`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from soractl.checkpoints.options import complete_checkpoint
from soractl.remote.options import Hostfile
from soractl.runs.options import RunName
from soractl.stages.options import StageName
from soractl.terminal.options import DryRun, Json, Overrides, Runs

if TYPE_CHECKING:
    from soractl.launch.prepare import Prepared
    from soractl.remote.requests import Remote
    from trainer.run_dir import AttemptDir, RunDir

Force = Annotated[bool, typer.Option("--force", help="Start though the nodes are not ready.")]
Preflight = Annotated[
    Literal["quick", "full"],
    typer.Option(help="full: also measure nodes in pairs, as `health --pairs` does."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Return as soon as all nodes started.")]
Supervise = Annotated[
    bool, typer.Option("--supervise", help="Keep the run going: see `soractl supervise`.")
]
UseSlurm = Annotated[
    bool, typer.Option("--slurm", help="Through Slurm's queue; `kind` in the cluster's file too.")
]

app = typer.Typer()


@app.command()
def launch(
    stage: StageName,
    hostfile: Hostfile = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint, run or file that gives the first weights.",
            autocompletion=complete_checkpoint,
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="Start from the checkpoint's averages, not its weights.")
    ] = False,
    overrides: Overrides = None,
    detach: Detach = False,
    supervise: Supervise = False,
    force: Force = False,
    preflight: Preflight = "quick",
    slurm: UseSlurm = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="A few steps of each bucket; nothing is kept.")
    ] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="With --rehearse: no start weights.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Start a stage on all nodes and follow it.

    Ctrl-C detaches: the run goes on. The exit code is the run's. With `--rehearse`, each bucket
    that the table fills is trained for a few steps instead, by processes of its own on all nodes:
    seconds, memory and what does not fit go to `runs/.rehearsals/STAGE.json`, which `estimate`
    reads; Ctrl-C ends it.
    """
    from soractl.launch.prepare import LaunchOptions, prepare_launch

    options = LaunchOptions(
        runs=runs,
        hostfile=hostfile,
        init_from=init_from,
        ema=ema,
        overrides=tuple(overrides or ()),
        queue="slurm" if slurm else None,
        random_weights=random_weights,
    )
    prepared = prepare_launch(stage, options, os.environ)
    if rehearse:
        return _rehearse(prepared, dry_run, force, as_json)
    if dry_run:
        return _show(prepared, force, as_json, supervise=supervise)
    if preflight == "full" and not force:
        _refuse_slow_pairs(prepared)
    return _start(prepared, as_json, detach=detach, supervise=supervise, force=force)


@app.command()
def resume(
    run: Annotated[
        str,
        typer.Argument(
            help="latest, 7, 007-stage2, or a checkpoint's folder.",
            autocompletion=complete_checkpoint,
        ),
    ],
    hostfile: Hostfile = None,
    overrides: Overrides = None,
    reset_data: Annotated[
        bool, typer.Option("--reset-data", help="Begin the epoch anew: the data set has changed.")
    ] = False,
    detach: Detach = False,
    supervise: Supervise = False,
    force: Force = False,
    preflight: Preflight = "quick",
    slurm: UseSlurm = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Go on with a run from its newest checkpoint.

    Weights, optimizer, schedule, averages, data position and random state are restored; the
    run's folder stays the same, and `--set` changes settings from here on.
    """
    from soractl.launch.prepare import LaunchOptions, prepare_resume

    options = LaunchOptions(
        runs=runs,
        hostfile=hostfile,
        overrides=tuple(overrides or ()),
        reset_data=reset_data,
        queue="slurm" if slurm else None,
    )
    prepared = prepare_resume(run, options, os.environ)
    if dry_run:
        return _show(prepared, force, as_json, supervise=supervise)
    if preflight == "full" and not force:
        _refuse_slow_pairs(prepared)
    return _start(prepared, as_json, detach=detach, supervise=supervise, force=force)


@app.command()
def follow(run: RunName = "latest", as_json: Json = False, runs: Runs = "runs") -> None:
    """Follow a run to its end, as `launch` does.

    For one that was detached, or whose terminal is gone. Ctrl-C detaches.
    """
    from soractl.launch.follow import attempt_to_follow
    from soractl.queue.record import open_job
    from soractl.remote.connections import Connections
    from soractl.runs.find import find_run
    from soractl.runs.record import read_record

    found = find_run(Path(runs).absolute(), run)
    if open_job(found):
        with Connections() as remote:
            return _follow_job(found, remote, as_json)
    attempt = attempt_to_follow(found)
    with Connections(read_record(attempt).ssh) as remote:
        return _follow(found, attempt, remote, as_json)


def _show(prepared: "Prepared", force: bool, as_json: bool, *, supervise: bool) -> None:
    if prepared.site.is_queued:
        return _show_job(prepared, as_json, supervise=supervise)
    return _show_plan(prepared, force, as_json)


def _show_plan(prepared: "Prepared", force: bool, as_json: bool) -> None:
    from soractl.errors import ExitCode
    from soractl.launch import preflight
    from soractl.launch import report as launch_report
    from soractl.remote.connections import Connections
    from soractl.terminal import output

    found = None
    if not force:
        with Connections(prepared.site.cluster.ssh) as remote:
            found = preflight.examine(prepared.plan, remote)
    values = launch_report.plan_json(prepared, found)
    output.report(launch_report.whole_plan(prepared, found), values, as_json)
    if found and found.faults:
        raise typer.Exit(ExitCode.REFUSED)


def _refuse_slow_pairs(prepared: "Prepared") -> None:
    from soractl.doctor import pairs_report
    from soractl.doctor.measure_pairs import measure_planned
    from soractl.errors import ExitCode, SoractlError
    from soractl.terminal import output

    if len(prepared.plan.nodes) > 1 and not prepared.site.is_queued:
        found = measure_planned(prepared.plan, prepared.site)
        output.note([pairs_report.lines(found), *pairs_report.notes(found)])
        if found.exit_code is not ExitCode.OK:
            raise SoractlError(
                "not started: slow nodes or links",
                hint="without `--preflight full`, or with --force, it starts all the same",
                exit_code=ExitCode.REFUSED,
            )


def _start(
    prepared: "Prepared", as_json: bool, *, detach: bool, supervise: bool, force: bool
) -> None:
    from soractl.launch import preflight
    from soractl.launch import report as launch_report
    from soractl.launch import start as launcher
    from soractl.remote.connections import Connections
    from soractl.terminal import output

    output.note(launch_report.summary(prepared))
    if prepared.site.is_queued:
        return _submit(prepared, as_json, detach=detach, supervise=supervise)
    with Connections(prepared.site.cluster.ssh) as remote:
        if prepared.run is not None:
            # Before the nodes are judged: its own ranks would count against it.
            launcher.refuse_if_alive(prepared.run, remote)
        output.note(f"note: {note}" for note in preflight.check(prepared, remote, force=force))
        started = launcher.launch(prepared, ["soractl", *sys.argv[1:]], remote)
        output.note(launch_report.started(started))
        if supervise:
            _supervise(started.run)
        if detach:
            values = launch_report.attempt_json(started.run, started.attempt)
            return output.report([started.run.name], values, as_json)
        return _follow(started.run, started.attempt, remote, as_json)


def _rehearse(prepared: "Prepared", dry_run: bool, force: bool, as_json: bool) -> None:
    from soractl.estimate import rehearsal_report
    from soractl.launch import preflight
    from soractl.launch import rehearse as rehearsing
    from soractl.launch import report as launch_report
    from soractl.remote.connections import Connections
    from soractl.terminal import output, progress_bar

    shapes = rehearsing.buckets_of(prepared)
    if dry_run:
        lines, values = rehearsal_report.plan(prepared.stage, shapes, prepared.missing)
        _, *summary = launch_report.summary(prepared)  # a rehearsal is no run
        return output.report([*summary, *lines], values, as_json)
    with Connections(prepared.site.cluster.ssh) as remote:
        output.note(f"note: {note}" for note in preflight.check(prepared, remote, force=force))
        if not force:
            rehearsing.refuse_if_busy(prepared, remote)
        with progress_bar.display(quiet_s=0) as display:
            found = rehearsing.rehearse(prepared, shapes, remote, display)
    output.report(rehearsal_report.lines(prepared.plan.run.parent, found), found.as_json(), as_json)
    raise typer.Exit(rehearsal_report.exit_code(found))


def _show_job(prepared: "Prepared", as_json: bool, *, supervise: bool) -> None:
    from soractl.jobs import report as job_report
    from soractl.jobs import submit
    from soractl.queue.kinds import QUEUES
    from soractl.remote.connections import Connections
    from soractl.terminal import output

    with Connections() as remote:
        queue = QUEUES[prepared.site.cluster.kind](remote)
        script = submit.next_script(prepared, queue, supervised=supervise)
        forecast = queue.check(script)
    values = job_report.script_json(prepared, script, forecast)
    output.report(job_report.script_lines(prepared, script, forecast), values, as_json)


def _submit(prepared: "Prepared", as_json: bool, *, detach: bool, supervise: bool) -> None:
    from soractl.jobs import report as job_report
    from soractl.jobs.submit import submit
    from soractl.remote.connections import Connections
    from soractl.terminal import output

    with Connections() as remote:
        command_line = ["soractl", *sys.argv[1:]]
        submitted = submit(prepared, command_line, remote, supervised=supervise)
        output.note(job_report.submitted_lines(submitted))
        if detach:
            values = job_report.submitted_json(submitted)
            return output.report([submitted.run.name], values, as_json)
        return _follow_job(submitted.run, remote, as_json)


def _follow_job(run: "RunDir", remote: "Remote", as_json: bool) -> None:
    from soractl.errors import ExitCode, Interrupted
    from soractl.jobs import report as job_report
    from soractl.jobs.follow import follow_job
    from soractl.launch import report as launch_report
    from soractl.queue.kinds import queue_of_run
    from soractl.terminal import output, progress_bar

    try:
        with progress_bar.display(quiet_s=0) as display:
            end = follow_job(run, queue_of_run(run, remote, os.environ), display)
    except KeyboardInterrupt:
        raise Interrupted(launch_report.detached(run)) from None
    output.report(job_report.end_lines(run, end), job_report.end_json(run, end), as_json)
    if reason := end.gave_up(run):
        output.note(f"the job has given up: {reason}")
        raise typer.Exit(ExitCode.GAVE_UP)
    raise typer.Exit(end.outcome.exit_code)


def _supervise(run: "RunDir") -> None:
    from soractl.supervise import report
    from soractl.supervise.process import start_supervisor
    from soractl.terminal import output

    output.note(report.started_lines(start_supervisor(run, watch_only=False)))


def _follow(run: "RunDir", attempt: "AttemptDir", remote: "Remote", as_json: bool) -> None:
    from soractl.errors import ExitCode, Interrupted
    from soractl.launch import report as launch_report
    from soractl.supervise.follow import follow_supervised, given_up
    from soractl.terminal import output, progress_bar

    try:
        with progress_bar.display(quiet_s=0) as display:
            attempt, ended, last = follow_supervised(run, attempt, remote, display)
    except KeyboardInterrupt:
        raise Interrupted(launch_report.detached(run)) from None
    values = launch_report.outcome_json(run, attempt, ended, last)
    output.report(launch_report.outcome(run, attempt, ended, last), values, as_json)
    if reason := given_up(run):
        output.note(f"the supervisor has given up: {reason}")
        raise typer.Exit(ExitCode.GAVE_UP)
    raise typer.Exit(ended.exit_code)
