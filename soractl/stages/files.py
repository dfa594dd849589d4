"""The stages that there are, with the files they stand in, and copies of them to edit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from trainer.config import find_stage
from trainer.stage_files import OWN_FOLDER, folders, stage_files

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class StageFile:
    """A stage that can be launched, and the shipped file that its own stands in front of."""

    name: str
    path: Path
    hides: Path | None = None


@dataclass(frozen=True)
class CopyPlan:
    """A stage's file and the path of its copy, whose stem is the new stage's name."""

    stage: str
    source: Path
    target: Path


def listing(searched: Sequence[Path] | None = None) -> list[StageFile]:
    """Every stage, by name; `searched` are folders, those of `trainer.stage_files` by default."""
    first, *others = searched or folders()
    behind = stage_files(others)
    found = stage_files([first, *others])
    return [
        StageFile(name, path, hides if (hides := behind.get(name)) != path else None)
        for name, path in found.items()
    ]


def plan_copy(stage: str, name: str) -> CopyPlan:
    """The copy of a stage under a name; ConfigError for no such stage, SoractlError for the name.

    Exit code 5 if the file is there already: nothing is overwritten.
    """
    source = find_stage(stage)
    if not _NAME.fullmatch(name):
        raise SoractlError(f"{name!r} is no name of a stage: letters, digits, - and _")
    target = OWN_FOLDER / f"{name}.toml"
    if target.exists():
        raise SoractlError(
            f"{target} is there already",
            hint=f"`soractl config copy {stage} NAME` makes a copy of another name",
            exit_code=ExitCode.REFUSED,
        )
    return CopyPlan(stage, source, target)


def copy(plan: CopyPlan) -> None:
    """The planned copy as a file; SoractlError where it cannot be written."""
    try:
        plan.target.parent.mkdir(exist_ok=True)
        with plan.target.open("x") as file:
            file.write(plan.source.read_text())
    except OSError as error:
        raise SoractlError(f"cannot write {plan.target}: {error.strerror}") from None
