"""Values, times, paths and pairs as text."""

import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def pairs(rows: Iterable[tuple[str, object]], width: int = 0) -> list[str]:
    """Names on the left, at least `width` wide; values on the right."""
    known = list(rows)
    width = max(width, *(len(name) for name, _ in known))
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in known]


def value(setting: Any) -> str:
    """A setting as a TOML file would say it; `-` for none."""
    if setting is None:
        return "-"
    if isinstance(setting, bool):
        return str(setting).lower()
    if isinstance(setting, list | tuple):
        return f"[{', '.join(value(item) for item in setting)}]"
    return str(setting)


def signal_name(number: int) -> str:
    """The name of a signal; most of those for real time have none of their own.

    >>> signal_name(9), signal_name(40), signal_name(99)
    ('SIGKILL', 'SIGRTMIN+6', 'signal 99')
    """
    with suppress(ValueError):
        return signal.Signals(number).name
    is_of_real_time = signal.SIGRTMIN < number < signal.SIGRTMAX
    return f"SIGRTMIN+{number - signal.SIGRTMIN}" if is_of_real_time else f"signal {number}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 12 s`, `5 h 07 min`, `2 d 04 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    units = (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1))
    large, small, size, part = next(unit for unit in units if whole >= unit[2])
    return f"{whole // size} {large} {whole % size // part:02d} {small}"


def span(seconds: float) -> str:
    """A limit in seconds with at most one decimal: `20 s`, `3.5 s`, `0.2 s`."""
    short = f"{seconds:.1f}".removesuffix(".0")
    return f"{short if seconds >= 0.1 else f'{seconds:.1g}'} s"


def size(number: float) -> str:
    """`812 B`, `1.2 GB`: bytes in powers of ten."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number /= 1000
        power += 1
    digits = 1 if power and number < 99.95 else 0
    return f"{number:.{digits}f} {units[power]}"


def path(full: Path) -> str:
    """Short where it lies below the current folder."""
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def count(number: int, one: str, more: str = "") -> str:
    """`1 node`, `24 nodes`; `more` says how some words are many."""
    return f"{number} {one}" if number == 1 else f"{number} {more or f'{one}s'}"
