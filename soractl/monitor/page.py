"""The page of the monitor as one file: style, programs and data inside, nothing from a network.

The same text is served live and written by `--export-html`; it knows by its data which it is.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

STYLES = ("uPlot.min.css", "page.css")
PROGRAMS = ("uPlot.iife.min.js", "data.js", "map.js", "chart.js", "node.js", "page.js")


def page(data: Mapping[str, Any]) -> str:
    """The page with its data; names from nodes and runs stand in it as JSON alone."""
    # `<` ends no script there, and the two separators of lines end no string.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"STYLE": _joined(STYLES), "PROGRAM": _joined(PROGRAMS), "POLICY": policy()}
    html = _file("page.html")
    for name, part in parts.items():
        html = html.replace(f"@{name}@", part)
    return html.replace("@DATA@", text)


@cache
def policy() -> str:
    """Policy of the page: it loads its style and program by their checksums, and its own server."""
    style, program = (_checksum(_joined(names)) for names in (STYLES, PROGRAMS))
    return (
        f"default-src 'none'; script-src '{program}'; style-src '{style}'; "
        "img-src data:; connect-src 'self'"
    )


def _checksum(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _joined(names: tuple[str, ...]) -> str:
    return "\n".join(_file(name).strip() for name in names)


def _file(name: str) -> str:
    return files(__package__).joinpath("page_files", name).read_text()
