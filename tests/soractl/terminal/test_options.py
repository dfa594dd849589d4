from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from soractl.terminal.options import ImplicitValue, command_with, is_number, is_word, positive

app = typer.Typer()


IMPLICIT = {"--every": ImplicitValue("5", is_number), "--like": ImplicitValue("x.*", is_word)}


@app.command(cls=command_with(IMPLICIT))
def main(
    every: Annotated[float | None, typer.Option(callback=positive)] = None,
    like: str | None = None,
    dry_run: bool = False,
    hosts: Annotated[list[str] | None, typer.Argument()] = None,
):
    typer.echo(f"{every} {like} {dry_run} {hosts}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "None None False None"),
        (["--every"], "5.0 None False None"),
        (["--every", "2"], "2.0 None False None"),
        (["--every=2"], "2.0 None False None"),
        (["--every", "nodes.txt"], "5.0 None False ['nodes.txt']"),
        (["--like", "--dry-run"], "None x.* True None"),
        (["--like", "--every", "3"], "3.0 x.* False None"),
        (["--like", "a b", "n1"], "None a b False ['n1']"),
        (["--", "--every"], "None None False ['--every']"),
    ],
)
def test_an_option_may_stand_without_its_value(arguments, expected):
    assert CliRunner().invoke(app, arguments).stdout == f"{expected}\n"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_time_is_above_zero(value):
    done = CliRunner().invoke(app, ["--every", value])
    assert (done.exit_code, "positive" in done.output) == (2, True)
