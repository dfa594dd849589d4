"""The commands: read arguments, call one function, hand the result to output."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from soractl.launcher import Started
    from soractl.preparation import Prepared
    from soractl.remote import Remote

app = typer.Typer(
    help="Launch, watch and resume the training of a text-to-video model on your own cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
config_app = typer.Typer(help="Show and compare the settings of stages.", no_args_is_help=True)
app.add_typer(config_app, name="config")

Hostfile = Annotated[
    str | None,
    typer.Option("--hostfile", help="Nodes, one a line, or a list such as node-[001-024]."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value instead of what the file says; repeatable."),
]
Runs = Annotated[str, typer.Option("--runs", help="The folder of all runs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Force = Annotated[bool, typer.Option("--force", help="Start though the nodes are not ready.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return as soon as all nodes started.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
RunName = Annotated[str, typer.Argument(help="latest, 7, 007-stage2, or its folder.")]


@app.command()
def launch(
    stage: Annotated[str, typer.Argument(help="The name of a file in configs/.")],
    hostfile: Hostfile = None,
    init_from: Annotated[
        str | None, typer.Option(help="Checkpoint, run or file that gives the first weights.")
    ] = None,
    overrides: Overrides = None,
    detach: Detach = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Start a stage on all nodes and follow it.

    Ctrl-C detaches: the run goes on. The exit code is the run's.
    """
    from soractl.preparation import Wishes, prepare_launch

    wishes = Wishes(
        runs=runs, hostfile=hostfile, init_from=init_from, overrides=tuple(overrides or ())
    )
    prepared = prepare_launch(stage, wishes, os.environ)
    if dry_run:
        return _show_plan(prepared, as_json)
    return _start(prepared, detach, force, as_json)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="latest, 7, 007-stage2, or a checkpoint's folder.")],
    hostfile: Hostfile = None,
    overrides: Overrides = None,
    detach: Detach = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Go on with a run from its newest checkpoint.

    Weights, optimizer, schedule, averages, data position and random state are restored; the
    run's folder stays the same, and `--set` changes settings from here on.
    """
    from soractl.preparation import Wishes, prepare_resume

    wishes = Wishes(runs=runs, hostfile=hostfile, overrides=tuple(overrides or ()))
    prepared = prepare_resume(run, wishes, os.environ)
    if dry_run:
        return _show_plan(prepared, as_json)
    return _start(prepared, detach, force, as_json)


@app.command()
def status(run: RunName = "latest", as_json: Json = False, runs: Runs = "runs") -> None:
    """Show how far a run is, and why it failed if it did."""
    from soractl import output, run_status, status_report
    from soractl.remote import Connections
    from soractl.runs import find_run, ssh_options

    found = find_run(Path(runs).absolute(), run)
    with Connections(ssh_options(found)) as remote:
        told = run_status.read_status(found, remote)
    output.report(status_report.lines(told), told.as_json(), as_json)


@app.command()
def logs(
    run: RunName = "latest",
    node: Annotated[str | None, typer.Option(help="Another node than the head node.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show new lines as well.")] = False,
    runs: Runs = "runs",
) -> None:
    """Show what the ranks of a node printed."""
    from soractl import node_log, output
    from soractl.runs import find_run, log_of

    log, ended = log_of(find_run(Path(runs).absolute(), run), node)
    output.result(node_log.tail(log)[-lines:])
    if follow:
        output.result(node_log.follow(log, ended))


def _show_plan(prepared: "Prepared", as_json: bool) -> None:
    from soractl import launch_report, output

    plan = launch_report.plan_json(prepared)
    output.report(launch_report.whole_plan(prepared), plan, as_json)


def _start(prepared: "Prepared", detach: bool, force: bool, as_json: bool) -> None:
    from soractl import launch_report, launcher, output, preflight
    from soractl.remote import Connections

    output.note(launch_report.summary(prepared))
    with Connections(prepared.site.cluster.ssh) as remote:
        preflight.check(prepared, remote, force=force)
        started = launcher.launch(prepared, ["soractl", *sys.argv[1:]], remote)
        output.note(launch_report.started(started))
        if detach:
            return output.report([started.run.name], launch_report.started_json(started), as_json)
        return _follow(started, remote, as_json)


def _follow(started: "Started", remote: "Remote", as_json: bool) -> None:
    from soractl import follower, launch_report, output
    from soractl.errors import ExitCode

    try:
        with output.progress_display() as display:
            ended, last = follower.follow(started, remote, display)
    except KeyboardInterrupt:
        output.note(launch_report.detached(started))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    values = launch_report.outcome_json(started, ended, last)
    output.report(launch_report.outcome(started, ended, last), values, as_json)
    raise typer.Exit(ended.exit_code)


@config_app.command("show")
def config_show(
    stages: Annotated[list[str], typer.Argument(help="One stage, or several to compare.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show a stage's settings and their files.

    Of several stages: the settings that are not the same in all of them.
    """
    from soractl import comparison, config_report, output
    from trainer.config import load_stage

    loaded = [load_stage(name, tuple(overrides or ())) for name in stages]
    rows = comparison.one(loaded[0]) if len(loaded) == 1 else comparison.differing(loaded)
    output.report(config_report.lines(stages, rows), config_report.as_json(stages, rows), as_json)


@config_app.command("diff")
def config_diff(
    first: Annotated[str, typer.Argument(help="A stage.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    as_json: Json = False,
) -> None:
    """Show in what two stages differ, long tables folded."""
    from soractl import comparison, config_report, output
    from trainer.config import load_stage

    names = [first, second]
    rows = comparison.differing([load_stage(name) for name in names])
    short = comparison.folded(rows)
    output.report(config_report.lines(names, short), config_report.as_json(names, rows), as_json)


def main() -> None:
    """What the `soractl` command runs."""
    from soractl.errors import ExitCode, SoractlError
    from trainer.run_dir import RunDirError
    from trainer.settings import ConfigError

    try:
        app()
    except (SoractlError, ConfigError, RunDirError) as fault:
        from soractl import output

        output.error(fault)
        sys.exit(fault.exit_code if isinstance(fault, SoractlError) else ExitCode.BAD_REQUEST)


if __name__ == "__main__":
    main()
