"""Writes what comes from the code: commands.md, map.md, health.md and pictures/ of docs/."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from soractl.cli import app
from soractl.health.examine import CHECKS
from soractl.health.health_report import LIST_HEADERS, list_cells

sys.path.insert(0, str(Path(__file__).parent))
from pictures import pictures

REPOSITORY = Path(__file__).parent.parent
COMMANDS = REPOSITORY / "docs/commands.md"
MAP = REPOSITORY / "docs/map.md"
HEALTH = REPOSITORY / "docs/health.md"
CHECKS_BELOW = "<!-- written by `make docs` from here on -->\n"
PICTURES = REPOSITORY / "docs/pictures"
WIDTH = 100


def commands_page() -> str:
    """The help of every command."""
    parts = ["# Commands\n\nWritten by `make docs` from the program itself.\n"]
    for name, text in _helps(typer.main.get_command(app), "soractl", None):
        parts.append(f"## {name}\n\n```\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def map_page() -> str:
    """The map of the code: the first line of each module's docstring."""
    return f"# Map\n\nWritten by `make docs` from the modules' docstrings.\n\n{module_map()}"


def health_page() -> str:
    """The page of `soractl health`: what stands above the mark, and a table of the checks."""
    above, mark, _ = HEALTH.read_text().partition(CHECKS_BELOW)
    rows = [LIST_HEADERS, ("---",) * len(LIST_HEADERS), *map(list_cells, CHECKS)]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return f"{above}{mark}\n{len(CHECKS)} checks:\n\n{table}\n"


def module_map() -> str:
    """One line for each module: the first line of its docstring."""
    parts = []
    for package in ("soractl", "trainer"):
        files = sorted((REPOSITORY / package).rglob("*.py"))
        rows = [
            f"| `{file.relative_to(REPOSITORY / package).with_suffix('')}` | {_first_line(file)} |"
            for file in files
            if file.name != "__init__.py"
        ]
        parts.append("\n".join([f"| {package} | |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name.rpartition(" ")[2], parent=parent, terminal_width=WIDTH
    )
    yield name, command.get_help(context)
    for inner_name, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, f"{name} {inner_name}", context)


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    COMMANDS.write_text(commands_page())
    MAP.write_text(map_page())
    HEALTH.write_text(health_page())
    for name, svg in pictures().items():
        (PICTURES / name).write_text(svg)
