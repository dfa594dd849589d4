"""Logs of an attempt's nodes: their last lines, and new ones as they come."""

import difflib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.files.growing import GrowingFile
from soractl.runs.find import last_attempt
from soractl.runs.record import AttemptRecord, read_record
from trainer.run_dir import AttemptDir, RunDir

POLL_S = 0.5
FIRST_READ_BYTES = 2**16

# Warnings and notes of torch, W&B and Python, which say nothing of how far a start is.
_NOISE = re.compile(
    r"(\[rank\d+\]:)?\[?[IW]\d{4} \d\d:\d\d:\d\d|wandb: |\S+:\d+: \w*Warning: |\s+warnings\.warn\("
)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Options of `logs`: whose lines, and of which attempt."""

    node: str | None = None  # else the head node
    every_node: bool = False
    rank: int | None = None  # only this rank's lines
    attempt: int | None = None  # else the newest


class NodeLog:
    """The log of one node, read at its end and then as it grows."""

    def __init__(self, attempt: AttemptDir, node: str, rank: int | None = None) -> None:
        self.node = node
        self._path = attempt.node_log(node)
        self._file = GrowingFile(self._path)
        self._ends = (attempt.exit, attempt.node_exit(node))
        self._is_kept = re.compile(_lines_of_rank(rank) if rank is not None else "")

    @property
    def ended(self) -> bool:
        """Nothing more can come."""
        return any(path.exists() for path in self._ends)

    def last(self, count: int) -> list[str]:
        """The last lines that are not empty, at most so many; `new` goes on after them."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                self._file.go_on_from(size)
                length = min(size, FIRST_READ_BYTES)
                while True:
                    file.seek(size - length)
                    lines = self._kept(file.read(length).split(b"\n"))
                    if length == size or len(lines) > count:
                        break
                    length = min(size, 4 * length)
        except FileNotFoundError:
            return []
        except OSError as error:
            return [f"(cannot be read: {error.strerror})"]
        return lines[-count:] if count else []

    def new(self) -> list[str]:
        """The whole lines that came since."""
        return self._kept(self._file.new_lines())

    def _kept(self, lines: Sequence[bytes]) -> list[str]:
        return [line for line in map(_shown, lines) if line.strip() and self._is_kept.match(line)]


def logs_of(run: RunDir, options: LogOptions) -> list[NodeLog]:
    """The logs to show; SoractlError for an attempt, node or rank that the run does not have."""
    attempt = _attempt(run, options.attempt)
    record = read_record(attempt)
    if options.every_node and (options.node or options.rank is not None):
        raise SoractlError("--all shows every node: leave out --node and --rank")
    if options.every_node:
        return [NodeLog(attempt, node.name) for node in record.nodes]
    return [NodeLog(attempt, _node(run, record, options), options.rank)]


def follow(logs: Sequence[NodeLog]) -> Iterator[tuple[NodeLog, str]]:
    """Lines that are added, in the order in which they are seen, until nothing more can come."""
    while True:
        last_time = all(log.ended for log in logs)
        for log in logs:
            yield from ((log, line) for line in log.new())
        if last_time:
            return
        time.sleep(POLL_S)


def last_line(path: Path) -> str:
    """The last line of a log that says something, or nothing."""
    return next((line for line in reversed(tail(path)) if not _NOISE.match(line)), "")


def tail(path: Path, *, last_bytes: int = FIRST_READ_BYTES) -> list[str]:
    """The last lines of a log that are not empty; none when it is not there or cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - last_bytes))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return [line for line in map(_shown, lines) if line.strip()]


def _shown(line: bytes) -> str:
    """A line as a terminal would show it: a progress bar overwrites it again and again."""
    return line.decode(errors="replace").rstrip().rpartition("\r")[2]


def _attempt(run: RunDir, number: int | None) -> AttemptDir:
    newest = last_attempt(run)
    if newest is None:
        raise SoractlError(f"{run.name} never started", exit_code=ExitCode.NOTHING_SUITABLE)
    if number is None:
        return newest
    known = [attempt for attempt in run.attempts() if attempt.plan.is_file()]
    chosen = [attempt for attempt in known if attempt.number == number]
    if not chosen:
        numbers = ", ".join(str(attempt.number) for attempt in known)
        raise SoractlError(
            f"{run.name} has no attempt {number}",
            hint=f"its attempts are: {numbers}",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    return chosen[0]


def _node(run: RunDir, record: AttemptRecord, options: LogOptions) -> str:
    names = [node.name for node in record.nodes]
    if options.node is not None and options.node not in names:
        near = difflib.get_close_matches(options.node, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"its nodes are: {', '.join(names)}"
        raise SoractlError(f"{run.name} does not run on {options.node}", hint=hint)
    if options.rank is None:
        return options.node or names[0]
    if not 0 <= options.rank < sum(record.ranks):
        raise SoractlError(f"{run.name} has the ranks 0 to {sum(record.ranks) - 1}")
    node = record.node_of_rank(options.rank)
    if options.node not in (None, node):
        raise SoractlError(f"rank {options.rank} runs on {node}, not on {options.node}")
    return node


def _lines_of_rank(rank: int) -> str:
    """Of the trainer's log, and of torch."""
    return rf"(\d\d:\d\d:\d\d )?rank {rank}: |\[rank{rank}\]:"
