"""The only module that prints: results to stdout, all else to stderr, JSON, tables, progress."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO, TypeVar

from soractl.errors import Interrupted, SoractlError
from soractl.terminal import counting
from soractl.terminal.table import Table
from soractl.terminal.transfer import Show, Transfer
from soractl.terminal.transfer import one_line as transfer_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table as Grid
    from rich.text import Text

SCHEMA_VERSION = 1
PLAIN_EVERY_S = 5.0

T = TypeVar("T")


class Steps(Protocol):
    """Progress in steps; a step or a total that is not known yet is None."""

    @property
    def global_step(self) -> int | None: ...

    @property
    def total_steps(self) -> int | None: ...

    def one_line(self) -> str:
        """The numbers that stand beside the bar."""


class Display(Protocol):
    """Where progress is shown."""

    def show(self, progress: Steps) -> None:
        """Draw the newest numbers."""

    def say(self, text: str) -> None:
        """Add a line that stays."""


def result(lines: str | Iterable[str] | Table) -> None:
    """What was asked for; a table is folded to the width of a terminal, and coloured there."""
    if not isinstance(lines, Table):
        _write(sys.stdout, lines)
    elif not sys.stdout.isatty():
        _write(sys.stdout, lines.lines())
    else:
        console = _console()
        console.print(_styled(lines, console.width), soft_wrap=True)


def note(lines: str | Iterable[str]) -> None:
    """What goes on, and hints."""
    _write(sys.stderr, lines)


def json_object(values: Mapping[str, Any]) -> None:
    """What was asked for, for programs: one object, its schema's version first."""
    result(json.dumps({"schema_version": SCHEMA_VERSION, **values}, indent=2))


def report(lines: Iterable[str] | Table, values: Mapping[str, Any], as_json: bool) -> None:
    """What was asked for, in the form that was asked for."""
    if as_json:
        json_object(values)
    else:
        result(lines)


def look(
    lines: Iterable[str] | Table, values: Mapping[str, Any], as_json: bool, *, again: bool
) -> None:
    """One of several reports; on a terminal it takes the place of the one before."""
    if again and not as_json and sys.stdout.isatty():
        result("\x1b[H\x1b[2J" + time.strftime("%H:%M:%S"))
    report(lines, values, as_json)


def error(fault: SoractlError) -> None:
    """What happened, and what to type next."""
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
def progress_display() -> Iterator[Display]:
    """A line that is drawn over and over on a terminal, else a line every few seconds."""
    if not sys.stderr.isatty():
        yield PlainDisplay()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield LiveDisplay(live)


class PlainDisplay:
    """Progress for a log file or a pipe."""

    def __init__(self) -> None:
        self._shown: str | None = None
        self._stepped = False
        self._next = 0.0

    def show(self, progress: Steps) -> None:
        """One line, if there is something new and the last one is some seconds old."""
        line = progress.one_line()
        if line == self._shown:
            return
        first_step = bool(self._shown and not self._stepped and progress.global_step)
        if first_step or time.monotonic() >= self._next:
            note(line)
            self._shown, self._stepped = line, progress.global_step is not None
            self._next = time.monotonic() + PLAIN_EVERY_S

    def say(self, text: str) -> None:
        """Something happened."""
        note(text)


class LiveDisplay:
    """Progress on a terminal."""

    def __init__(self, live: "Live") -> None:
        self._live = live

    def show(self, progress: Steps) -> None:
        """Draw the line anew, with a bar once the number of steps is known."""
        from rich.text import Text

        line = progress.one_line()
        if progress.global_step is None or not progress.total_steps:
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"))
        else:
            self._live.update(_bar(line, progress.global_step, progress.total_steps))

    def say(self, text: str) -> None:
        """Something happened."""
        self._live.console.print(text, markup=False, highlight=False)


@contextmanager
def transfer_display() -> Iterator[Show]:
    """For bytes that come: a bar on a terminal, else a line every few seconds."""
    if not sys.stderr.isatty():
        yield _plain(transfer_line)
        return
    from rich.console import Console
    from rich.live import Live

    def show(transfer: Transfer) -> None:
        live.update(_bar(transfer_line(transfer), transfer.done_bytes, transfer.total_bytes))

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield show


@contextmanager
def count_display() -> Iterator[counting.Show]:
    """For clips that are done: a bar on a terminal, else a line every few seconds."""
    if not sys.stderr.isatty():
        yield _plain(counting.one_line)
        return
    from rich.console import Console
    from rich.live import Live

    def show(count: counting.Count) -> None:
        live.update(_bar(counting.one_line(count), count.done, count.total))

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield show


def _plain(line: Callable[[T], str]) -> Callable[[T], None]:
    due = time.monotonic() + PLAIN_EVERY_S

    def show(progress: T) -> None:
        nonlocal due
        if time.monotonic() >= due:
            note(line(progress))
            due = time.monotonic() + PLAIN_EVERY_S

    return show


def _bar(line: str, done: int, total: int) -> "Grid":
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    text = Text(line, no_wrap=True, overflow="ellipsis")
    grid.add_row(ProgressBar(total or 1, done, width=24), text)
    return grid


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False)


def _styled(table: Table, width: int) -> "Text":
    from rich.text import Text

    lines = [Text(line, style=style) for line, style in table.styled(width)]
    return Text("\n").join(lines)


def _write(stream: TextIO, lines: str | Iterable[str]) -> None:
    for line in [lines] if isinstance(lines, str) else lines:
        print(line, file=stream, flush=True)
