"""The only module that prints: results to stdout, all else to stderr; lines, tables, JSON."""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from soractl.errors import Interrupted, SoractlError
from soractl.terminal.lines import Styled, Verbatim
from soractl.terminal.table import Table, for_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

SCHEMA_VERSION = 1
USUAL_WIDTH = 80  # where a terminal does not say how wide it is


def result(parts: str | Table | Iterable[str | Table]) -> None:
    """Print a result to stdout; a terminal gets it folded to its width, and coloured."""
    for part in [parts] if isinstance(parts, str | Table) else parts:
        if sys.stdout.isatty():
            _draw(for_terminal(part, _width(sys.stdout)))
        else:
            _write(sys.stdout, part.lines() if isinstance(part, Table) else part)


def verbatim(lines: str | Iterable[str]) -> None:
    """Print to stdout what a program printed, or what one reads: nothing is folded."""
    _write(sys.stdout, lines)


def note(parts: str | Iterable[str | Table]) -> None:
    """Print progress and hints to stderr."""
    width = _width(sys.stderr) if sys.stderr.isatty() else None
    for part in [parts] if isinstance(parts, str) else parts:
        if width is None:
            _write(sys.stderr, part.lines() if isinstance(part, Table) else part)
        else:
            _write(sys.stderr, (line.text for line in for_terminal(part, width)))


def json_object(values: Mapping[str, Any]) -> None:
    """Print a result for programs: one object, its schema's version first."""
    verbatim(json.dumps({"schema_version": SCHEMA_VERSION, **values}, indent=2))


def report(parts: Table | Iterable[str | Table], values: Mapping[str, Any], as_json: bool) -> None:
    """Print a result as lines and tables or as JSON."""
    if as_json:
        json_object(values)
    else:
        result(parts)


def look(
    lines: Iterable[str | Table] | Table, values: Mapping[str, Any], as_json: bool, *, again: bool
) -> None:
    """One of several reports; on a terminal it takes the place of the one before."""
    if again and not as_json and sys.stdout.isatty():
        _write(sys.stdout, "\x1b[H\x1b[2J" + time.strftime("%H:%M:%S"))
    report(lines, values, as_json)


def error(fault: SoractlError) -> None:
    """Print an error, and the hint what to type next."""
    note(str(fault) if isinstance(fault, Interrupted) else f"error: {fault}")
    if fault.hint:
        is_command = fault.hint.startswith("soractl ")
        note(Verbatim(f"hint: {fault.hint}") if is_command else f"hint: {fault.hint}")


def json_error(fault: SoractlError) -> None:
    """An error for programs: `error`, `hint`, `exit_code`."""
    values = {"error": str(fault), "hint": fault.hint, "exit_code": fault.exit_code}
    json_object(values)


class Provisional:
    """A table on a terminal that goes when the whole one comes."""

    def __init__(self, off: bool) -> None:
        self._off = off or not sys.stdout.isatty()
        self._live: Live | None = None

    def show(self, table: Table) -> None:
        """Draw it, unless output is not for people."""
        if self._off:
            return
        from rich.live import Live

        console = _console()
        drawn = _text(table.styled(console.width))
        self._live = Live(drawn, console=console, transient=True)
        self._live.start()

    def clear(self) -> None:
        """Take it away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


def _draw(lines: Sequence[Styled]) -> None:
    if any(line.style for line in lines):
        _console().print(_text(lines), soft_wrap=True)
    else:  # without rich, which takes a while to load
        _write(sys.stdout, (line.text for line in lines))


def _text(lines: Sequence[Styled]) -> "Text":
    from rich.text import Text

    return Text("\n").join(Text(line.text, style=line.style) for line in lines)


def _width(stream: TextIO) -> int:
    """Columns of a terminal."""
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH
    except OSError:
        return USUAL_WIDTH


def _write(stream: TextIO, lines: str | Iterable[str]) -> None:
    for line in [lines] if isinstance(lines, str) else lines:
        print(line, file=stream, flush=True)
