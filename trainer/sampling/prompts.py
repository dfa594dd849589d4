"""Prompts for a sampler: their texts, the references they name, and their mask strategies.

A line is a text, or `|0| a |2| b`: `a` for the first two loops and `b` from the third on. A JSON
object at its end names references and a mask strategy of its own:
`a cat {"reference_path": "cat.png;dog.mp4", "mask_strategy": "0"}`. A brace of the text itself is
written twice: `a sign with {{open}}`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.sampling.mask_strategy import MaskGroup, parse_mask_strategy
from trainer.settings import ConfigError

_KEYS = ("reference_path", "mask_strategy")
_TEXT = re.compile(r"((?:[^{]|\{\{)*)(.*)", re.DOTALL)  # up to the first brace that stands alone


@dataclass(frozen=True)
class Scores:
    """Scores at the end of scored clips' captions; a prompt may ask for them."""

    aesthetic: float | None = None
    motion: float | None = None
    camera_motion: str | None = None

    def append_to(self, text: str) -> str:
        """The text with every score that it does not name itself."""
        endings = {
            "aesthetic score:": None if self.aesthetic is None else f"{self.aesthetic:.1f}",
            "motion score:": None if self.motion is None else f"{self.motion:.1f}",
            "camera motion:": self.camera_motion,
        }
        for words, value in endings.items():
            if value is not None and words not in text:
                text = f"{text} {words} {value}."
        return text


@dataclass(frozen=True)
class Prompt:
    """One video to make."""

    segments: tuple[tuple[int, str], ...]  # (first loop, text), rising
    references: tuple[Path, ...] = ()
    mask_strategy: tuple[MaskGroup, ...] = ()

    def text(self, loop: int) -> str:
        """Text of the video's n-th part."""
        return [text for first, text in self.segments if first <= loop][-1]


def parse_prompt(
    line: str,
    *,
    references: Sequence[Path] = (),
    mask_strategy: str = "",
    scores: Scores | None = None,
) -> Prompt:
    """A line's prompt; what its JSON leaves open is as the arguments say. Else ConfigError."""
    text, own = _split_json(line)
    if "reference_path" in own:
        references = [Path(path) for path in own["reference_path"].split(";") if path]
    try:
        groups = tuple(parse_mask_strategy(own.get("mask_strategy", mask_strategy)))
        segments = _split_loops(text)
    except ValueError as fault:
        raise ConfigError([f"prompt {line!r}: {fault}"]) from None
    if references and not groups:
        raise ConfigError(
            [
                f"prompt {line!r} has references and no mask strategy that says where they go; "
                "with `--mask-strategy 0` the video begins with the first frame of the first one"
            ]
        )
    scores = scores or Scores()
    texts = tuple((first, scores.append_to(text)) for first, text in segments)
    return Prompt(texts, tuple(references), groups)


def read_prompts(path: Path) -> list[str]:
    """The lines of a file up to the last prompt; a blank one between is a prompt without words.

    ConfigError if there is no prompt.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # without the mark that some editors put first
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {error}"]) from None
    lines = [line.strip() for line in text.rstrip().split("\n")]  # U+2028 and others end no line
    if not any(lines):
        raise ConfigError([f"{path} holds no prompt; it has one a line"])
    return lines


def _split_json(line: str) -> tuple[str, dict[str, str]]:
    """The text with its doubled braces as single ones, and the JSON after it."""
    text, rest = _TEXT.fullmatch(line).groups()  # type: ignore[union-attr]  # it matches all
    text = text.replace("{{", "{").replace("}}", "}")
    if not rest:
        return text, {}
    try:
        values: dict[str, Any] = json.loads(rest)
    except json.JSONDecodeError as error:
        raise ConfigError(
            [
                f"prompt {line!r}: what follows the text is no JSON: {error}; "
                "a brace of the text itself is written twice: {{ or }}"
            ]
        ) from None
    wrong = [key for key, value in values.items() if key not in _KEYS or not isinstance(value, str)]
    if wrong:
        raise ConfigError(
            [f"prompt {line!r}: {wrong[0]!r}; expected {' and '.join(_KEYS)}, both texts"]
        )
    return text, values


def _split_loops(text: str) -> list[tuple[int, str]]:
    if not text.lstrip().startswith("|0|"):
        return [(0, text.strip())]
    parts = re.split(r"\|(\d+)\|", text)[1:]
    firsts = [int(number) for number in parts[::2]]
    if firsts != sorted({*firsts}):
        raise ValueError(f"loops {firsts}; expected rising numbers")
    return list(zip(firsts, (part.strip() for part in parts[1::2]), strict=True))
