"""Tables that fold: headers on two lines first, then the last columns below their rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soractl.terminal.lines import INDENT, Styled, styled, wrapped


@dataclass(frozen=True)
class Table:
    """Cells, and what may move when a terminal is narrow.

    >>> Table(("NODE", "UTIL %", "NOTE"), (("n1", "98", "GPU 0: ERR!"),), words=1).lines(22)
    ['      UTIL', 'NODE  %', 'n1    98', '    NOTE: GPU 0: ERR!']
    """

    headers: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    words: int = 0  # so many columns at the end are words, each on a line of its own below a row
    styles: tuple[str, ...] = ()  # of each row, as rich names them
    has_bar: bool = False  # the last column only draws another one's numbers, and may go

    def lines(self, width: int | None = None) -> list[str]:
        """Lines of at most `width` characters, if no single word is longer; None: as needed."""
        return [line.text for line in self.styled(width)]

    def styled(self, width: int | None = None) -> list[Styled]:
        """The lines with their styles."""
        whole = _aligned([self.headers, *self.rows])
        if width is None or max(map(len, whole)) <= width:
            styles = ("bold", *self._row_styles())
            return [Styled(*line) for line in zip(whole, styles, strict=True)]
        if self.has_bar:
            rows = tuple(row[:-1] for row in self.rows)
            return Table(self.headers[:-1], rows, self.words, self.styles).styled(width)
        for kept in range(len(self.headers), 1, -1):
            lines = self._side_by_side(kept)
            if max(map(len, lines)) <= width:
                return self._folded(lines, kept, width)
        return self._folded(self._side_by_side(1), 1, width)

    def _side_by_side(self, kept: int) -> list[str]:
        """The first `kept` columns, their headers on two lines."""
        split = [header.rpartition(" ") for header in self.headers[:kept]]
        upper, lower = [parts[0] for parts in split], [parts[2] for parts in split]
        return _aligned([upper, lower, *(row[:kept] for row in self.rows)])

    def _folded(self, lines: Sequence[str], kept: int, width: int) -> list[Styled]:
        """Lines of the first `kept` columns, the other columns below each row."""
        first, second, *lines = lines
        shown = [Styled(line, "bold") for line in (first, second) if line]
        for line, row, style in zip(lines, self.rows, self._row_styles(), strict=True):
            shown.append(Styled(line, style))
            shown += [Styled(below, style) for below in self._below(row, kept, width)]
        return shown

    def _below(self, row: Sequence[object], kept: int, width: int) -> Iterator[str]:
        """The columns after the first `kept` ones: numbers side by side, words one by one."""
        below = [
            (f"{header}: {cell}" if header else str(cell), index >= len(row) - self.words)
            for index, (header, cell) in enumerate(zip(self.headers, row, strict=True))
            if index >= kept and str(cell).strip("-")
        ]
        line = ""
        for cell, is_words in below:
            if line and (is_words or len(f"{INDENT}{line}  {cell}") > width):
                yield from wrapped(f"{INDENT}{line}", width)
                line = ""
            line = f"{line}  {cell}" if line else cell
        if line:
            yield from wrapped(f"{INDENT}{line}", width)

    def _row_styles(self) -> Sequence[str]:
        return self.styles or [""] * len(self.rows)


def for_terminal(part: str | Table, width: int) -> list[Styled]:
    """A part of a report as a terminal of `width` columns shows it."""
    return part.styled(width) if isinstance(part, Table) else styled(part, width)


def _aligned(rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns as wide as their longest cell, two spaces apart."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells)
    return ["  ".join(row).rstrip() for row in padded]
