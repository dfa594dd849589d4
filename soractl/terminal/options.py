"""Options that several commands share, and kinds of options that Typer lacks."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from soractl.terminal.hints import repeated


def positive(value: float | None) -> float | None:
    """The number of seconds; BadParameter unless it is positive and finite."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value:g} must be a positive number of seconds")
    return value


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value instead of what the file says; repeatable."),
]
Runs = Annotated[
    str, typer.Option("--runs", callback=repeated("--runs", "runs"), help="The folder of all runs.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Timeout = Annotated[
    float, typer.Option(callback=positive, help="Seconds that a node has to answer.")
]


@dataclass(frozen=True)
class ImplicitValue:
    """The value of an option that stands alone, and the test of the next word for being one."""

    value: str
    is_value: Callable[[str], bool]


def command_with(implicit: Mapping[str, ImplicitValue]) -> type[TyperCommand]:
    """Command class with options that may stand without a value."""

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, list(_completed(args, implicit)))

    return Command


def is_number(word: str) -> bool:
    """True for a value of an option that takes a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def is_word(word: str) -> bool:
    """True for a value, False for the next option."""
    return not word.startswith("-")


def _completed(args: Sequence[str], implicit: Mapping[str, ImplicitValue]) -> Iterator[str]:
    options_end = args.index("--") if "--" in args else len(args)
    for at, word in enumerate(args):
        yield word
        if word in implicit and at < options_end:
            following = args[at + 1 : at + 2]
            if not (following and implicit[word].is_value(following[0])):
                yield implicit[word].value
