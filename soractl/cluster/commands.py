"""Commands over all nodes: `gpus` and `exec`."""

import os
from typing import Annotated, Literal

import typer

from soractl.terminal.options import (
    Hosts,
    ImplicitValue,
    Json,
    Timeout,
    command_with,
    is_number,
    positive,
)

app = typer.Typer()


@app.command(cls=command_with({"--watch": ImplicitValue("5", is_number)}))
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
