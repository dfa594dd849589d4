"""The bar and the numbers that show a work's progress: drawn on a terminal, else lines of a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from soractl.terminal import output
from soractl.terminal.meter import Display, Measured

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table as Grid

PLAIN_EVERY_S = 5.0
SHORTEST_BAR, LONGEST_BAR = 4, 24


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
            output.note(measured.one_line())
            self._news, self._counting = measured.news, measured.done is not None
            self._due = self._clock() + PLAIN_EVERY_S

    def say(self, text: str) -> None:
        """Something happened."""
        output.note(text)


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
