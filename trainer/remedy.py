"""The remedy for an error: the options with which another attempt would get past it, as data.

A program that starts attempts makes the command of it; the trainer knows no commands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change for the next attempt; most remedies are one of these."""

    checkpoint: Path | None = None  # resume from this earlier one
    reset_data: bool = False  # begin the epoch anew
    settings: Mapping[str, float] = field(default_factory=dict)  # such as {"optim.lr": 5e-5}
    encode_features: Path | None = None  # first make the features in this folder

    def as_json(self) -> dict[str, Any]:
        """As `rank-N.json` holds it: `{"reset_data": true}`."""
        values = {
            "checkpoint": self.checkpoint and str(self.checkpoint),
            "reset_data": self.reset_data,
            "settings": dict(self.settings),
            "encode_features": self.encode_features and str(self.encode_features),
        }
        return {name: value for name, value in values.items() if value}


def with_remedy(error: E, remedy: Remedy) -> E:
    """The error, from which `remedy_of` reads the remedy, in another process too."""
    vars(error)["remedy"] = remedy
    return error


def remedy_of(error: BaseException) -> Remedy | None:
    """The remedy that an error was given."""
    found: Remedy | None = vars(error).get("remedy")
    return found
