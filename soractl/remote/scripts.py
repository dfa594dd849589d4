"""Programs that run on nodes: files beside their module, and the format of their answers."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PACKAGES = Path(__file__).parents[2]
# It begins with what is found fast: answers are long, and of many nodes.
_MARK = re.compile(r"\n=== ([a-z]+) ([0-9]+)(?=\n)")


class OddAnswerError(ValueError):
    """A node's answer is not what its program prints, such as one that was cut off."""


@contextmanager
def understood() -> Iterator[None]:
    """Parsing of a node's answer; OddAnswerError, which is that node's row, for what is no answer.

    >>> with understood():
    ...     int("Welcome to n1!")
    Traceback (most recent call last):
    ...
    soractl.remote.scripts.OddAnswerError: its answer cannot be read
    """
    try:
        yield
    except (LookupError, ValueError) as error:
        raise OddAnswerError("its answer cannot be read") from error


def script(room: str, file: str) -> str:
    """Text of a program in a room: `script("soractl.processes", "scan.sh")`."""
    return (_PACKAGES / room.replace(".", "/") / file).read_text()


def variables(**values: str) -> str:
    r"""Lines that set shell variables, for a program of ours that is sent after them.

    >>> variables(folder="/my work", run_id="7")
    "folder='/my work'\nrun_id=7\n"
    """
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def python(program: str, question: Mapping[str, Any], path: str) -> str:
    """Shell lines that run a Python program with a question, as JSON, by the python3 of a PATH."""
    return _python(program, ["-", json.dumps(question)], path)


def quick_python(program: str, question: Mapping[str, Any], path: str) -> str:
    """The same for a program with a function `main`, which gets a question of plain values.

    Without site-packages, and without reading JSON, it starts in half the time.
    """
    return _python(f"{program}\nmain({dict(question)!r})", ["-S", "-E", "-"], path)


def _python(program: str, arguments: Sequence[str], path: str) -> str:
    return (
        f"python3=$(PATH={shlex.quote(path)} command -v python3) && "
        f"exec \"$python3\" {shlex.join(arguments)} << 'END OF PROGRAM'\n"
        f"{program}\nEND OF PROGRAM\n"
    )


def sections(text: str) -> dict[str, tuple[str, int]]:
    """Text and number by name; a script closes each section with a line `=== NAME NUMBER`."""
    found: dict[str, tuple[str, int]] = {}
    lines, begin = f"\n{text}", 1
    for mark in _MARK.finditer(lines):
        found[mark[1]] = (lines[begin : mark.start() + 1], int(mark[2]))
        begin = mark.end() + 1
    return found
