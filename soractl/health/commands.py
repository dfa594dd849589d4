"""Commands that judge the nodes: `clock` and `health`."""

import os
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from soractl.remote.options import Hosts
from soractl.terminal.options import (
    ImplicitValue,
    Json,
    Timeout,
    command_with,
    is_number,
    positive,
)

if TYPE_CHECKING:
    from soractl.doctor.measure_pairs import Pairs
    from soractl.doctor.replay import Replay
    from soractl.health.examine import Health
    from soractl.health.slurm_hook import Hook
    from soractl.queue.hosts import Hosts as ChosenHosts

app = typer.Typer()


@app.command(cls=command_with({"--watch": ImplicitValue("5", is_number)}))
def clock(
    hosts: Hosts = None,
    watch: Annotated[
        float | None,
        typer.Option(metavar="[S]", callback=positive, help="Again every S seconds; without S: 5."),
    ] = None,
    timeout: Timeout = 10,
    as_json: Json = False,
) -> None:
    """Compare the nodes' clocks with this machine's.

    With --watch, steps and drift are seen too.
    """
    from soractl.health import clock_report
    from soractl.health.clock_watch import watch_clocks
    from soractl.queue.hosts import named
    from soractl.terminal import output

    chosen = named(hosts)
    for found in watch_clocks(chosen.names, watch, deadline_s=timeout, environ=os.environ):
        shown = clock_report.table(found), clock_report.as_json(found)
        output.look(*shown, as_json, again=watch is not None)
        output.note([*clock_report.notes(found), *chosen.notes])
    output.note(clock_report.remedies(found))
    raise typer.Exit(found.exit_code)


@app.command(cls=command_with({"--dcgm": ImplicitValue("1", is_number)}))
def health(
    hosts: Hosts = None,
    only: Annotated[
        list[str] | None, typer.Option(help="This check, or all of a kind: gpu; repeatable.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="All but this one; repeatable.")] = None,
    context: Annotated[
        Literal["launch", "idle", "prolog", "epilog", "periodic"],
        typer.Option(help="The checks of this occasion; idle: nothing may use the GPUs."),
    ] = "periodic",
    nagios: Annotated[
        bool, typer.Option("--nagios", help="Lines and exit codes as Nagios reads them.")
    ] = False,
    prolog: Annotated[
        bool, typer.Option("--prolog", help="For slurm.conf: this node; drains it, ends with 5.")
    ] = False,
    epilog: Annotated[bool, typer.Option("--epilog", help="The same after a job.")] = False,
    hcprogram: Annotated[
        bool, typer.Option("--hcprogram", help="The same now and then; undrains what it drained.")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Find slow nodes and links by all-reduces of two nodes.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="One micro step on every GPU: equal bits, equal time?")
    ] = False,
    dcgm: Annotated[
        int | None,
        typer.Option(
            metavar="[LEVEL]",
            min=1,
            max=4,
            help="NVIDIA's diagnostics of idle nodes that have dcgmi; 1: seconds, 3: 15 min.",
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Name the checks; ask no node.")] = False,
    timeout: Timeout = 10,
    as_json: Json = False,
) -> None:
    """Judge GPUs, links, disks and system of every node."""
    from soractl.health import health_report as report
    from soractl.health.examine import check_health, choose
    from soractl.health.history import with_past
    from soractl.queue.hosts import named
    from soractl.terminal import output

    hooks: dict[Hook, bool] = {"prolog": prolog, "epilog": epilog, "hcprogram": hcprogram}
    for hook in (one for one, is_chosen in hooks.items() if is_chosen):
        from soractl.health.slurm_hook import run_hook

        raise typer.Exit(run_hook(hook, hosts, os.environ))
    if pairs:
        _pairs(hosts, as_json)
    if replay:
        _replay(hosts, as_json)
    if dcgm:
        _dcgm(hosts, dcgm, as_json)
    checks = choose(only or (), skip or (), context)
    if listed:
        output.report(report.list_table(checks), report.list_json(checks), as_json)
        return
    chosen = named(hosts)
    found = with_past(check_health(chosen.names, checks, deadline_s=timeout, environ=os.environ))
    if nagios:
        code, lines = report.nagios(found)
        output.verbatim(lines)
        raise typer.Exit(code)
    _end(found, report, chosen, as_json)


def _pairs(hosts: str | None, as_json: bool) -> NoReturn:
    from soractl.doctor import pairs_report
    from soractl.doctor.measure_pairs import measure
    from soractl.queue.hosts import named

    chosen = named(hosts)
    _end(measure(chosen.names, "runs", os.environ), pairs_report, chosen, as_json)


def _replay(hosts: str | None, as_json: bool) -> NoReturn:
    from soractl.doctor import replay_report
    from soractl.doctor.replay import replay
    from soractl.queue.hosts import named

    chosen = named(hosts)
    _end(replay(chosen.names, "runs", os.environ), replay_report, chosen, as_json)


def _dcgm(hosts: str | None, level: int, as_json: bool) -> NoReturn:
    from soractl.doctor.dcgm import diagnose
    from soractl.health import health_report
    from soractl.health.history import with_past
    from soractl.queue.hosts import named

    chosen = named(hosts)
    _end(with_past(diagnose(chosen.names, level, os.environ)), health_report, chosen, as_json)


def _end(
    found: "Health | Pairs | Replay", report: ModuleType, chosen: "ChosenHosts", as_json: bool
) -> NoReturn:
    """Show what was found, as its report has it, and end with its exit code."""
    from soractl.terminal import output

    output.report(report.lines(found), report.as_json(found), as_json)
    output.note([*report.notes(found), *chosen.notes])
    raise typer.Exit(found.exit_code)
