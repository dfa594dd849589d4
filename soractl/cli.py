"""The commands: read arguments, call one function, hand the result to output."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from soractl.checkpoints import commands as checkpoint_commands
from soractl.data import commands as data_commands
from soractl.stages import commands as stage_commands
from soractl.terminal.options import Unsaid, is_number, is_word, positive
from soractl.terminal.options import command as command_with

if TYPE_CHECKING:
    from soractl.launch.prepare import Prepared
    from soractl.launch.start import Started
    from soractl.remote.requests import Remote
    from soractl.sync.plan import SyncOptions

app = typer.Typer(
    help="Launch, watch and resume the training of a text-to-video model on your own cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.add_typer(stage_commands.app, name="config")
app.add_typer(checkpoint_commands.app, name="ckpt")
app.add_typer(data_commands.app, name="data")

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
Hosts = Annotated[str | None, typer.Argument(help="A hostfile, or node-[001-024].")]
Timeout = Annotated[
    float, typer.Option(callback=positive, help="Seconds that a node has to answer.")
]
RunName = Annotated[str, typer.Argument(help="latest, 7, 007-stage2, or its folder.")]


@app.command()
def launch(
    stage: Annotated[str, typer.Argument(help="The name of a file in configs/.")],
    hostfile: Hostfile = None,
    init_from: Annotated[
        str | None, typer.Option(help="Checkpoint, run or file that gives the first weights.")
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="Start from the checkpoint's averages, not its weights.")
    ] = False,
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
    from soractl.launch.prepare import Wishes, prepare_launch

    wishes = Wishes(
        runs=runs,
        hostfile=hostfile,
        init_from=init_from,
        ema=ema,
        overrides=tuple(overrides or ()),
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
    reset_data: Annotated[
        bool, typer.Option("--reset-data", help="Begin the epoch anew: the data set has changed.")
    ] = False,
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
    from soractl.launch.prepare import Wishes, prepare_resume

    wishes = Wishes(
        runs=runs, hostfile=hostfile, overrides=tuple(overrides or ()), reset_data=reset_data
    )
    prepared = prepare_resume(run, wishes, os.environ)
    if dry_run:
        return _show_plan(prepared, as_json)
    return _start(prepared, detach, force, as_json)


@app.command()
def status(run: RunName = "latest", as_json: Json = False, runs: Runs = "runs") -> None:
    """Show how far a run is, and why it failed if it did."""
    from soractl.remote.connections import Connections
    from soractl.runs import report as status_report
    from soractl.runs import status as run_status
    from soractl.runs.find import find_run, ssh_options
    from soractl.terminal import output

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
    from soractl.runs import node_log
    from soractl.runs.find import find_run, log_of
    from soractl.terminal import output

    log, ended = log_of(find_run(Path(runs).absolute(), run), node)
    output.result(node_log.tail(log)[-lines:])
    if follow:
        output.result(node_log.follow(log, ended))


@app.command(cls=command_with({"--watch": Unsaid("5", is_number)}))
def gpus(
    hosts: Hosts = None,
    per_gpu: Annotated[bool, typer.Option("--per-gpu", help="A row for each GPU.")] = False,
    procs: Annotated[bool, typer.Option("--procs", help="A row for each process.")] = False,
    only: Annotated[
        Literal["busy", "idle", "bad"] | None, typer.Option(help="These nodes only.")
    ] = None,
    sort: Annotated[
        Literal["node", "util", "mem", "power", "temp"],
        typer.Option(help="Highest first; node: as in the hostfile."),
    ] = "node",
    watch: Annotated[
        float | None,
        typer.Option(metavar="[S]", callback=positive, help="Again every S seconds; without S: 5."),
    ] = None,
    timeout: Timeout = 10,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The table with commas.")] = False,
) -> None:
    """Show what every node's GPUs are doing, and for whom."""
    from soractl.cluster import gpu_report
    from soractl.cluster import watch as many_nodes
    from soractl.terminal import output

    screen = gpu_report.Screen(gpu_report.view(per_gpu, procs), only, sort, as_csv=as_csv)
    early = screen.can_be_early and not as_json and watch is None
    looks = many_nodes.watch_gpus(
        hosts,
        watch,
        deadline_s=timeout,
        environ=os.environ,
        on_early=(lambda look: output.result(screen.early(look))) if early else None,
    )
    for look in looks:
        values = gpu_report.as_json(gpu_report.choose(look.rows, only, sort))
        output.look(screen.rest(look), values, as_json, again=watch is not None)
        output.note(gpu_report.count(look))
    raise typer.Exit(look.exit_code)


@app.command(cls=command_with({"--pattern": Unsaid(r"python.*train\.py", is_word)}))
def kill(
    run: Annotated[str | None, typer.Argument(help="Else the newest run that lives.")] = None,
    every_run: Annotated[bool, typer.Option("--all", help="Every run of mine.")] = False,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="[RE]",
            help=r"Whatever has RE in its command line; without RE: python.*train\.py.",
        ),
    ] = None,
    sudo: Annotated[bool, typer.Option("--sudo", help="Other users' processes too.")] = False,
    hostfile: Hostfile = None,
    grace: Annotated[float, typer.Option(help="Seconds from TERM to KILL, for a save.")] = 40,
    dry_run: DryRun = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Stop a run on all its nodes and look whether it is gone."""
    from soractl.remote.connections import Connections
    from soractl.runs import kill as killing
    from soractl.runs import kill_report
    from soractl.terminal import output

    wishes = killing.Wishes(
        run=run, every_run=every_run, pattern=pattern, sudo=sudo, hostfile=hostfile
    )
    meant = killing.targets(Path(runs).absolute(), wishes, os.environ)
    killed = killing.kill(
        meant,
        Connections,
        grace_s=None if dry_run else grace,
        on_found=lambda found: output.note(kill_report.told(found, grace)),
    )
    output.report(kill_report.lines(killed), kill_report.as_json(killed), as_json)
    raise typer.Exit(killed.exit_code if killed else 0)


@app.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    words: Annotated[list[str], typer.Argument(metavar="[HOSTS] -- COMMAND...")],
    diff: Annotated[bool, typer.Option("--diff", help="Only what differs.")] = False,
    timeout: Timeout = 60,
    as_json: Json = False,
) -> None:
    """Run a command on all nodes; equal answers are shown once."""
    from soractl.cluster import exec_report
    from soractl.cluster import watch as many_nodes
    from soractl.errors import exit_code_of
    from soractl.terminal import output

    told = many_nodes.execute(words, deadline_s=timeout, environ=os.environ)
    lines = exec_report.lines(told.results, diff=diff)
    output.report(lines, exec_report.as_json(told.results), as_json)
    output.note(exec_report.count(told))
    raise typer.Exit(exit_code_of(result.problem for result in told.results))


@app.command()
def sync(
    run: RunName = "latest",
    source: Annotated[
        str | None, typer.Option("--from", metavar="[HOST:]DIR", help="A folder of runs.")
    ] = None,
    destination: Annotated[
        str | None, typer.Option("--to", metavar="[HOST:]DIR", help="Another; else runs/ here.")
    ] = None,
    watch: Annotated[
        float | None, typer.Option(callback=positive, help="Again every so many seconds.")
    ] = None,
    with_optimizer: Annotated[
        bool, typer.Option("--with-optimizer", help="All of it, so that it can be resumed.")
    ] = False,
    ema_only: Annotated[bool, typer.Option("--ema-only", help="The averages alone.")] = False,
    bwlimit: Annotated[int | None, typer.Option(min=1, help="At most so many KiB/s.")] = None,
    hostfile: Hostfile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Copy complete checkpoints to another machine, or from one.

    Without --from they come from the head node's runs/, or with --to from runs/ here.
    """
    from soractl.sync.plan import SyncOptions

    options = SyncOptions(
        run=run,
        source=source,
        destination=destination,
        hostfile=hostfile,
        with_optimizer=with_optimizer,
        ema_only=ema_only,
        bwlimit=bwlimit,
    )
    if dry_run:
        return _show_sync_plan(options, as_json)
    return _sync(options, watch, as_json)


def _show_sync_plan(options: "SyncOptions", as_json: bool) -> None:
    from soractl.sync import copy as sync
    from soractl.sync import report as sync_report
    from soractl.terminal import output

    plan = sync.dry_run(options, os.environ)
    output.report(sync_report.plan_lines(plan), sync_report.plan_json(plan), as_json)


def _sync(options: "SyncOptions", every_s: float | None, as_json: bool) -> None:
    from soractl.errors import ExitCode
    from soractl.sync import copy as sync
    from soractl.sync import report as sync_report
    from soractl.terminal import output

    display, log = output.transfer_display, output.note
    try:
        for synced in sync.rounds(options, os.environ, display, every_s=every_s, log=log):
            output.report(sync_report.lines(synced), sync_report.as_json(synced), as_json)
    except KeyboardInterrupt:
        output.note("stopped; the next sync goes on from here")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    raise typer.Exit(synced.exit_code)


def _show_plan(prepared: "Prepared", as_json: bool) -> None:
    from soractl.launch import report as launch_report
    from soractl.terminal import output

    plan = launch_report.plan_json(prepared)
    output.report(launch_report.whole_plan(prepared), plan, as_json)


def _start(prepared: "Prepared", detach: bool, force: bool, as_json: bool) -> None:
    from soractl.launch import preflight
    from soractl.launch import report as launch_report
    from soractl.launch import start as launcher
    from soractl.remote.connections import Connections
    from soractl.terminal import output

    output.note(launch_report.summary(prepared))
    with Connections(prepared.site.cluster.ssh) as remote:
        if prepared.run is not None:
            # Before the nodes are judged: its own ranks would count against it.
            launcher.refuse_if_alive(prepared.run, remote)
        preflight.check(prepared, remote, force=force)
        started = launcher.launch(prepared, ["soractl", *sys.argv[1:]], remote)
        output.note(launch_report.started(started))
        if detach:
            return output.report([started.run.name], launch_report.started_json(started), as_json)
        return _follow(started, remote, as_json)


def _follow(started: "Started", remote: "Remote", as_json: bool) -> None:
    from soractl.errors import ExitCode
    from soractl.launch import follow as follower
    from soractl.launch import report as launch_report
    from soractl.terminal import output

    try:
        with output.progress_display() as display:
            ended, last = follower.follow(started, remote, display)
    except KeyboardInterrupt:
        output.note(launch_report.detached(started))
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    values = launch_report.outcome_json(started, ended, last)
    output.report(launch_report.outcome(started, ended, last), values, as_json)
    raise typer.Exit(ended.exit_code)


def main() -> None:
    """What the `soractl` command runs."""
    from soractl.errors import ExitCode, SoractlError
    from trainer.atomic_files import RunDirError
    from trainer.settings import ConfigError

    try:
        app()
    except (SoractlError, ConfigError, RunDirError) as fault:
        from soractl.terminal import output

        output.error(fault)
        sys.exit(fault.exit_code if isinstance(fault, SoractlError) else ExitCode.BAD_REQUEST)


if __name__ == "__main__":
    main()
