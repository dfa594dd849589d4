"""Programs that run on nodes: files beside their module, and the format of their answers."""

import re
from importlib import resources


def script(room: str, file: str) -> str:
    """Text of a program in a room: `script("soractl.processes", "scan.sh")`."""
    return resources.files(room).joinpath(file).read_text()


def sections(text: str) -> dict[str, tuple[str, int]]:
    """Text and number by name; a script closes each section with a line `=== NAME NUMBER`."""
    found: dict[str, tuple[str, int]] = {}
    begin = 0
    for mark in re.finditer(r"^=== ([a-z]+) ([0-9]+)\n", text, flags=re.MULTILINE):
        found[mark[1]] = (text[begin : mark.start()], int(mark[2]))
        begin = mark.end()
    return found
