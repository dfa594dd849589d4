"""Commands over all nodes: `gpus` and `exec`."""

import os
from typing import Annotated, Literal

import typer

from soractl.remote.options import Hosts, complete_first_hosts
from soractl.terminal.options import (
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
    from soractl.cluster.watch import watch_gpus
    from soractl.queue.hosts import named
    from soractl.terminal import output

    chosen = named(hosts)
    what = gpu_report.view(per_gpu, procs)
    early = output.Provisional(as_json or as_csv or watch is not None)
    looks = watch_gpus(
        chosen.names,
        watch,
        deadline_s=timeout,
        environ=os.environ,
        on_early=lambda look: early.show(gpu_report.early_table(look, what, only, sort)),
    )
    for look in looks:
        early.clear()
        rows = gpu_report.choose(look.rows, only, sort)
        table = gpu_report.table(rows, what)
        shown = gpu_report.csv_lines(table) if as_csv else table
        output.look(shown, gpu_report.as_json(rows), as_json, again=watch is not None)
        output.note([gpu_report.count(look), *chosen.notes])
    raise typer.Exit(look.exit_code)


@app.command("exec", context_settings={"allow_interspersed_args": False})
def execute(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[HOSTS] -- COMMAND...", autocompletion=complete_first_hosts),
    ],
    diff: Annotated[bool, typer.Option("--diff", help="Only what differs.")] = False,
    timeout: Timeout = 60,
    as_json: Json = False,
) -> None:
    """Run a command on all nodes; equal answers are shown once.

    HOSTS may be a job or a partition of Slurm: job:12, partition:gpu.
    """
    from soractl.cluster import exec_report
    from soractl.cluster.execute import execute as run
    from soractl.cluster.execute import split
    from soractl.queue.hosts import named
    from soractl.terminal import output

    hosts, command = split(words)
    chosen = named(hosts)
    answers = run(chosen.names, command, deadline_s=timeout, environ=os.environ)
    lines = exec_report.lines(answers.results, diff=diff)
    output.report(lines, exec_report.as_json(answers.results), as_json)
    output.note([exec_report.count(answers), *chosen.notes])
    raise typer.Exit(answers.exit_code)
