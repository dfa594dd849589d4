"""What Typer lacks: options whose value may be left out, and numbers above zero."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand


@dataclass(frozen=True)
class Unsaid:
    """What an option means without a value, and which next word is one."""

    value: str
    is_value: Callable[[str], bool]


def command(unsaid: Mapping[str, Unsaid]) -> type[TyperCommand]:
    """A command some of whose options may stand without a value."""

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, list(_completed(args, unsaid)))

    return Command


def positive(value: float | None) -> float | None:
    """The number, if it is a time that can be waited for."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise typer.BadParameter(f"{value:g} is no number of seconds above 0")
    return value


def is_number(word: str) -> bool:
    """Whether this is a value for an option that takes a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def is_word(word: str) -> bool:
    """Whether this is a value and not the next option."""
    return not word.startswith("-")


def _completed(args: Sequence[str], unsaid: Mapping[str, Unsaid]) -> Iterator[str]:
    options_end = args.index("--") if "--" in args else len(args)
    for at, word in enumerate(args):
        yield word
        if word in unsaid and at < options_end:
            following = args[at + 1 : at + 2]
            if not (following and unsaid[word].is_value(following[0])):
                yield unsaid[word].value
