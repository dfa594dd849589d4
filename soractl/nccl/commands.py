"""The `env` commands: read arguments, call one function, hand the result to output."""

import os

import typer

from soractl.remote.options import Hosts
from soractl.terminal.options import Json, Timeout

app = typer.Typer(no_args_is_help=True, help="NCCL's and torch's environment on the nodes.")


@app.command()
def show(hosts: Hosts = None, timeout: Timeout = 10, as_json: Json = False) -> None:
    """Show what the ranks get: value, origin and meaning."""
    from soractl.nccl import report
    from soractl.nccl.ask import ask
    from soractl.queue.hosts import named
    from soractl.terminal import output

    chosen = named(hosts)
    found = ask(chosen.names, os.environ, deadline_s=timeout)
    output.report([report.show(found)], report.show_json(found), as_json)
    output.note([*report.notes(found), *chosen.notes])


@app.command()
def check(hosts: Hosts = None, timeout: Timeout = 10, as_json: Json = False) -> None:
    """Find what is misspelt, void, left over, or does not fit the nodes."""
    from soractl.nccl import report
    from soractl.nccl.ask import ask
    from soractl.queue.hosts import named
    from soractl.terminal import output

    chosen = named(hosts)
    found = ask(chosen.names, os.environ, deadline_s=timeout)
    output.report(report.check(found), report.check_json(found), as_json)
    output.note([*report.notes(found), report.count(found), *chosen.notes])
    raise typer.Exit(found.exit_code)


@app.command()
def detect(hosts: Hosts = None, timeout: Timeout = 10, as_json: Json = False) -> None:
    """Propose an environment for these nodes, as TOML for the cluster's file."""
    from soractl.nccl import report
    from soractl.nccl.ask import ask, propose
    from soractl.queue.hosts import named
    from soractl.terminal import output

    chosen = named(hosts)
    found = ask(chosen.names, os.environ, deadline_s=timeout)
    proposal = propose(found)
    output.report(report.detect(proposal), report.detect_json(proposal), as_json)
    output.note([*report.notes(found), *proposal.reasons, *chosen.notes])
