"""Distributions that a rehearsal imported, beside those that pyproject.toml asks for."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Of the extra `train`: what no process of a rehearsal imports, with the reason to keep it.
KEPT: Mapping[str, str] = {
    "py-spy": "a program that `soractl stacks` starts on the nodes",
    "pystack": "another one",
}
WITHOUT_THEIR_OWN = {
    "colossalai",  # installed by `pip install --no-deps`
    "pytz",  # pandas imports it where it is; libfaketime, which tests alone need, brings it
}


def imported(folder: Path) -> set[str]:
    """Distributions of the packages that were imported; `recording/` wrote their names here."""
    names = {line for file in folder.iterdir() for line in file.read_text().split()}
    owners = metadata.packages_distributions()
    return {canonicalize_name(owner) for name in names for owner in owners.get(name, ())}


def faults(found: set[str], pyproject: Path) -> Iterator[str]:
    """What the list of requirements has too much of, or lacks."""
    project = tomllib.loads(pyproject.read_text())
    extra = [Requirement(line) for line in project["project"]["optional-dependencies"]["train"]]
    for name in sorted({canonicalize_name(requirement.name) for requirement in extra}):
        if name not in found and name not in KEPT:
            yield f"{name} is in the extra `train`, and no process imported it: drop it, or say why"
        if name in found and name in KEPT:
            yield f"{name} was imported; its reason to be kept is not needed"
    base = [Requirement(line) for line in project["project"]["dependencies"]]
    own = canonicalize_name(project["project"]["name"])
    for name in sorted(found - _closure([*base, *extra]) - WITHOUT_THEIR_OWN - {own}):
        yield f"{name} was imported, and nothing in pyproject.toml asks for it"


def _closure(start: Iterable[Requirement]) -> set[str]:
    """All distributions that these need, and what those need in turn."""
    waiting, needed = list(start), set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in needed:
                needed.add((name, extra))
                waiting += _needs(name, extra)
    return {name for name, _ in needed}


def _needs(name: str, extra: str) -> Iterator[Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement
