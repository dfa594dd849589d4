"""The only module that prints: results to stdout, all else to stderr, JSON, tables, progress."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from soractl.errors import Interrupted, SoractlError
from soractl.terminal.meter import Display, Measured
from soractl.terminal.table import BadLine, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table as Grid
    from rich.text import Text

SCHEMA_VERSION = 1
PLAIN_EVERY_S = 5.0
SHORTEST_BAR, LONGEST_BAR = 4, 24


def result(parts: str | Table | Iterable[str | Table]) -> None:
    """Print a result to stdout; on a terminal tables are folded to its width, and coloured."""
    for part in [parts] if isinstance(parts, str | Table) else parts:
        if isinstance(part, Table | BadLine) and sys.stdout.isatty():
            console = _console()
            console.print(_styled(part, console.width), soft_wrap=True)
        else:
            _write(sys.stdout, part.lines() if isinstance(part, Table) else part)


def note(lines: str | Iterable[str]) -> None:
    """Print progress and hints to stderr."""
    _write(sys.stderr, lines)


def json_object(values: Mapping[str, Any]) -> None:
    """Print a result for programs: one object, its schema's version first."""
    result(json.dumps({"schema_version": SCHEMA_VERSION, **values}, indent=2))


def report(parts: Table | Iterable[str | Table], values: Mapping[str, Any], as_json: bool) -> None:
    """Print a result as lines and tables or as JSON."""
    if as_json:
        json_object(values)
    else:
        result(parts)


def look(
    lines: Iterable[str] | Table, values: Mapping[str, Any], as_json: bool, *, again: bool
) -> None:
    """One of several reports; on a terminal it takes the place of the one before."""
    if again and not as_json and sys.stdout.isatty():
        result("\x1b[H\x1b[2J" + time.strftime("%H:%M:%S"))
    report(lines, values, as_json)


def error(fault: SoractlError) -> None:
    """Print an error, and the hint what to type next."""
    note(str(fault) if isinstance(fault, Interrupted) else f"error: {fault}")
    if fault.hint:
        note(f"hint: {fault.hint}")


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
        self._live = Live(_styled(table, console.width), console=console, transient=True)
        self._live.start()

    def clear(self) -> None:
        """Take it away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextmanager
def display(
    quiet_s: float = PLAIN_EVERY_S, clock: Callable[[], float] = time.monotonic
) -> Iterator[Display]:
    """A bar that is drawn over and over on a terminal, else a line every few seconds.

    Without a terminal nothing is shown in the first `quiet_s` seconds.
    """
    if not sys.stderr.isatty():
        yield PlainDisplay(quiet_s, clock)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(live)


class PlainDisplay:
    """Progress for a log file or a pipe."""

    def __init__(self, quiet_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._news: str | None = None
        self._clock = clock
        self._due = clock() + quiet_s
        self._counting = False

    def show(self, measured: Measured) -> None:
        """One line, if there is something new and the last one is some seconds old."""
        if measured.news == self._news:
            return
        begins = self._news is not None and not self._counting and bool(measured.done)
        if begins or self._clock() >= self._due:
            note(measured.one_line())
            self._news, self._counting = measured.news, measured.done is not None
            self._due = self._clock() + PLAIN_EVERY_S

    def say(self, text: str) -> None:
        """Something happened."""
        note(text)


class LiveDisplay:
    """Progress on a terminal."""

    def __init__(self, live: "Live") -> None:
        self._live = live

    def show(self, measured: Measured) -> None:
        """Draw the line anew, with a bar once there is a total; only the bar gives way."""
        from rich.text import Text

        line, done, total = measured.one_line(), measured.done, measured.total
        room = self._live.console.width - len(line) - 1
        if done is None:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        elif not total or room < SHORTEST_BAR:
            self._live.update(Text(line))
        else:
            self._live.update(_bar(line, done, total, min(room, LONGEST_BAR)))

    def say(self, text: str) -> None:
        """Something happened."""
        self._live.console.print(text, markup=False, highlight=False)


def _bar(line: str, done: int, total: int, width: int) -> "Grid":
    from rich.progress_bar import ProgressBar
    from rich.table import Table as Grid

    grid = Grid.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total, done, width=width), line)
    return grid


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


def _styled(part: Table | BadLine, width: int) -> "Text":
    from rich.text import Text

    styled = part.styled(width) if isinstance(part, Table) else [(part, "red")]
    lines = [Text(line, style=style) for line, style in styled]
    return Text("\n").join(lines)


def _write(stream: TextIO, lines: str | Iterable[str]) -> None:
    for line in [lines] if isinstance(lines, str) else lines:
        print(line, file=stream, flush=True)
