"""Tables that fold: headers on two lines first, then the last columns below their rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from soractl.terminal.text import column_widths, table

INDENT = "    "


class BadLine(str):
    """A line about something broken, which a terminal shows red; its words say so too."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Cells, and what may move when a terminal is narrow.

    >>> Table(("NODE", "UTIL %", "NOTE"), (("n1", "98", "GPU 0: ERR!"),), words=1).lines(20)
    ['      UTIL', 'NODE  %', 'n1    98', '    NOTE: GPU 0: ERR!']
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 0  # so many columns at the end are words, not numbers
    styles: tuple[str, ...] = ()  # of each row, as rich names them

    def lines(self, width: int | None = None) -> list[str]:
        """Lines of at most `width` characters, as far as numbers allow; None: as long as needed."""
        return [line for line, _ in self.styled(width)]

    def styled(self, width: int | None = None) -> list[tuple[str, str]]:
        """Each line and its style."""
        whole = table(self.headers, self.rows)
        if width is None or max(map(len, whole)) <= width:
            return list(zip(whole, ("bold", *self._row_styles()), strict=True))
        for words in range(self.words):
            numbers_width, lines = self._folded(words)
            if numbers_width <= width:
                return lines
        return self._folded(self.words)[1]

    def _folded(self, words: int) -> tuple[int, list[tuple[str, str]]]:
        """Headers on two lines, and the last columns as lines below each row."""
        kept = len(self.headers) - words
        split = [header.rpartition(" ") for header in self.headers[:kept]]
        upper, lower = [parts[0] for parts in split], [parts[2] for parts in split]
        rows = [row[:kept] for row in self.rows]
        widths = column_widths([upper, lower, *rows])
        first, second, *lines = (
            *table(upper, [], widths),
            *table(lower, rows, widths),
        )
        shown = [(line, "bold") for line in (first, second) if line]
        for line, row, style in zip(lines, self.rows, self._row_styles(), strict=True):
            shown.append((line, style))
            more = zip(self.headers[kept:], row[kept:], strict=True)
            shown += [(_below(header, cell), style) for header, cell in more if cell.strip("-")]
        return sum(widths) + 2 * (kept - 1), shown

    def _row_styles(self) -> Sequence[str]:
        return self.styles or [""] * len(self.rows)


def _below(header: str, cell: str) -> str:
    return f"{INDENT}{header}: {cell}" if header else f"{INDENT}{cell}"
