"""A recorded good state of a cluster: the values that its nodes share, kept and compared."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soractl.errors import SoractlError
from soractl.health.check import Check, Finding, Level, majority
from soractl.health.examine import Fleet, NodeAnswer, NodeHealth
from trainer.atomic_files import write_json

LAYOUT = 1
CHANGING = ("trainer code",)  # differs from day to day, and must only be the same on all nodes


def record(answers: Sequence[NodeAnswer], checks: Sequence[Check], file: Path) -> int:
    """Write what most nodes have of all that should be alike; the number of values.

    SoractlError where the file cannot be written.
    """
    facts = [answer.facts for answer in answers if answer.facts]
    found = {
        check.id: {
            name: value
            for name, value in majority(check, facts).items()
            if value is not None and name not in CHANGING
        }
        for check in checks
        if check.source == "fleet" and not check.id.startswith("stage.")
    }
    values = {check: things for check, things in found.items() if things}
    try:
        write_json(file, {"layout": LAYOUT, "values": values})
    except OSError as error:
        raise SoractlError(f"cannot write {file}: {error.strerror or error}") from None
    return sum(map(len, values.values()))


def read(file: Path) -> Fleet:
    """The recorded state; SoractlError if the file is none of ours."""
    try:
        found: Any = json.loads(file.read_text())
        if found["layout"] != LAYOUT:
            raise SoractlError(f"{file} was written by another version of soractl")
        return {
            str(check): {str(name): str(value) for name, value in things.items()}
            for check, things in found["values"].items()
        }
    except OSError as error:
        raise SoractlError(f"{file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SoractlError(
            f"{file} is no recorded state", hint="name a new file: it is written"
        ) from None


def with_missing(
    rows: Sequence[NodeHealth],
    answers: Sequence[NodeAnswer],
    checks: Sequence[Check],
    recorded: Fleet,
) -> list[NodeHealth]:
    """The rows, with a finding for each recorded thing that a node no longer has."""
    return [
        replace(row, findings=(*row.findings, *_missing(answer, checks, recorded)))
        for row, answer in zip(rows, answers, strict=True)
    ]


def _missing(answer: NodeAnswer, checks: Sequence[Check], recorded: Fleet) -> Iterator[Finding]:
    """Once for each thing, by the first of the checks that know it."""
    seen: set[tuple[str, str]] = set()
    for check in checks if answer.facts else ():
        for name in recorded.get(check.id, {}) if check.by_name else ():
            is_there = answer.facts is not None and name in answer.facts.of(check.of)
            own = check.of == "name" and name == answer.node.name
            if not is_there and not own and (check.of, name) not in seen:
                seen.add((check.of, name))
                yield Finding(check, Level.BAD, name, "not there; it was recorded")
