"""Lines of a report: what a terminal colours, wraps between words, or leaves to be copied."""

import re
import textwrap
from dataclasses import dataclass

INDENT = "    "
_COMMAND = re.compile(r"`[^`]*`")
_UNBREAKABLE = "\0"  # a space within a command
_NAME_AND_VALUE = re.compile(r" *\S+(?: \S+)*  +(?=\S)")


class BadLine(str):
    """A line about something broken, which a terminal shows red; its words say so too."""

    __slots__ = ()


class Verbatim(str):
    """A line that a user copies, or that a program printed: it is never wrapped between words."""

    __slots__ = ()


class Command(str):
    """A command of a shell: a terminal folds it between words so that it can still be copied."""

    __slots__ = ()

    def folded(self, width: int) -> list[str]:
        r"""Lines of at most `width` characters, as far as words allow.

        >>> Command("  colossalai run --nproc_per_node 2").folded(24)
        ['  colossalai run \\', '      --nproc_per_node \\', '      2']
        """
        if len(self) <= width:
            return [str(self)]
        indent = " " * (len(self) - len(self.lstrip())) + INDENT
        *lines, last = textwrap.wrap(
            self,
            width - 2,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [*(f"{line} \\" for line in lines), last]


@dataclass(frozen=True)
class Styled:
    """A line as a terminal shows it; `style` as rich names it."""

    text: str
    style: str = ""


def styled(line: str, width: int) -> list[Styled]:
    """The line for a terminal of `width` columns."""
    if isinstance(line, Verbatim):
        return [Styled(line)]
    if isinstance(line, Command):
        return [Styled(one) for one in line.folded(width)]
    style = "red" if isinstance(line, BadLine) else ""
    return [Styled(one, style) for part in line.split("\n") for one in wrapped(part, width)]


def wrapped(line: str, width: int) -> list[str]:
    """The line broken between words only; a longer word keeps a line of its own.

    A command in backticks is one word, so that it can be copied.
    What follows stands below the value of a name and a value, else indented once more.

    >>> wrapped("state  failed on node n1 at step 1200", 28)
    ['state  failed on node n1 at', '       step 1200']
    """
    if len(line) <= width:
        return [line]
    found = _NAME_AND_VALUE.match(line)
    indent = found.end() if found else len(line) - len(line.lstrip()) + len(INDENT)
    if indent > width // 2:
        indent = len(INDENT)
    lines = textwrap.wrap(
        _COMMAND.sub(lambda found: found[0].replace(" ", _UNBREAKABLE), line),
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_UNBREAKABLE, " ") for line in lines]
