"""Command lines that messages offer to type: they repeat the options of this invocation."""

import shlex
from collections.abc import Callable

REPEATED = {
    **dict.fromkeys(
        ("status", "runs", "follow", "logs", "events", "kill", "resume", "ckpt"), ("--runs",)
    ),
    "launch": ("--runs", "--hostfile"),
    "sync": ("--hostfile",),
}
_given: dict[str, str] = {}


def to_type(command: str, *words: str) -> str:
    """A command of soractl as it must be typed now.

    >>> to_type("status", "007-stage2")
    'soractl status 007-stage2'

    After `soractl launch stage2 --runs elsewhere` it ends in `--runs elsewhere`.
    """
    options = [word for name in REPEATED.get(command, ()) for word in _option(name)]
    return shlex.join(["soractl", command, *words, *options])


def repeated(name: str, default: str | None = None) -> Callable[[str | None], str | None]:
    """Callback of an option that `to_type` repeats when it is not the default."""

    def callback(value: str | None) -> str | None:
        _given.pop(name, None)
        if value is not None and value != default:
            _given[name] = value
        return value

    return callback


def _option(name: str) -> list[str]:
    return [name, _given[name]] if name in _given else []
