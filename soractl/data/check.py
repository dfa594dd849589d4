"""`data check`: decode every clip of a table, on many nodes, and keep the healthy ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.cluster import settings as cluster
from soractl.data import clip_queue
from soractl.data import table as data_table
from soractl.data.journal import Journal
from soractl.errors import ExitCode, Fault, SoractlError, exit_code_of
from soractl.remote.connections import Connections
from soractl.remote.nodes import NodeSource, find_nodes
from soractl.terminal.meter import Show

if TYPE_CHECKING:
    from pandas import DataFrame


LONGEST_S = 86_400.0  # for a clip


@dataclass(frozen=True)
class Wishes:
    """What was asked for."""

    table: Path
    out: Path | None = None
    hostfile: str | None = None
    workers: int = 0  # a node; 0: as many as cores
    timeout_s: float = 300.0  # a clip
    resume: bool = False
    retry_failed: bool = False

    @property
    def journal(self) -> Path:
        """The job log: a line for each clip."""
        return self.table.with_name(f"{self.table.stem}.check.jsonl")


@dataclass(frozen=True)
class Checked:
    """What came of it."""

    wishes: Wishes
    source: NodeSource
    table: "DataFrame"
    healthy: "DataFrame"
    failed: tuple[Mapping[str, Any], ...]  # entries of the job log
    left: int  # clips that nobody has checked
    lost: Mapping[str, Fault]  # nodes that were given up, and why

    @property
    def exit_code(self) -> ExitCode:
        """1 if no clip is healthy, 3 if some are not; when clips are left, why."""
        if self.left:
            return exit_code_of(self.lost.values())
        if self.failed:
            return ExitCode.FAILED if self.healthy.empty else ExitCode.SOME_FAILED
        return ExitCode.OK


def check(wishes: Wishes, environ: Mapping[str, str], show: Show) -> Checked:
    """Decode every clip that the job log does not know; any number of nodes share the work."""
    if not 0 < wishes.timeout_s <= LONGEST_S:
        raise SoractlError(
            f"--timeout is more than 0 and at most {LONGEST_S:g} s: {wishes.timeout_s:g}"
        )
    if wishes.out is not None:
        data_table.check_output(wishes.out, [wishes.table])
    table = data_table.read(wishes.table)
    source = find_nodes(wishes.hostfile, environ=environ)
    facts, _ = cluster.load(source.hostfile)
    _must_be_wanted(wishes)
    with Journal(wishes.journal) as journal, Connections(facts.ssh) as remote:
        reading = clip_queue.Reading("check", wishes.workers, wishes.timeout_s, facts, remote.close)
        if wishes.retry_failed:
            journal.forget(lambda entry: not entry["ok"])
        lost = clip_queue.read_clips(
            _tasks(table),
            [node for node in source.nodes if not node.spare],
            remote,
            reading=reading,
            journal=journal,
            show=show,
        )
        checked = _outcome(wishes, source, table, journal, lost)
    if wishes.out is not None and not checked.left and len(checked.healthy):
        data_table.write(checked.healthy, wishes.out)
    return checked


def _must_be_wanted(wishes: Wishes) -> None:
    """SoractlError if a job log holds clips and nobody said what to do with them."""
    is_begun = wishes.journal.is_file() and wishes.journal.stat().st_size
    if is_begun and not (wishes.resume or wishes.retry_failed):
        raise SoractlError(
            f"{wishes.journal}: this table is checked already, or in part",
            hint="--resume goes on; --retry-failed checks the failed clips again; "
            f"rm {wishes.journal} begins anew",
            exit_code=ExitCode.REFUSED,
        )


def _tasks(table: "DataFrame") -> list[dict[str, Any]]:
    """Each clip once, with the number of frames that the table promises."""
    import pandas

    paths = table["path"].tolist()
    frames: list[Any] = [None] * len(paths)
    if "num_frames" in table.columns:
        numbers = pandas.to_numeric(table["num_frames"], errors="coerce")
        frames = [None if pandas.isna(number) else int(number) for number in numbers]
    expected = dict(zip(paths, frames, strict=True))
    return [{"path": path, "num_frames": number} for path, number in expected.items()]


def _outcome(
    wishes: Wishes,
    source: NodeSource,
    table: "DataFrame",
    journal: Journal,
    lost: Mapping[str, Fault],
) -> Checked:
    entries = journal.entries
    paths = list(dict.fromkeys(table["path"]))
    known = [entries[path] for path in paths if path in entries]
    healthy = table["path"].map(lambda path: bool(entries.get(path, {}).get("ok")))
    return Checked(
        wishes=wishes,
        source=source,
        table=table,
        healthy=table[healthy.to_numpy(dtype=bool)],
        failed=tuple(entry for entry in known if not entry["ok"]),
        left=len(paths) - len(known),
        lost=dict(lost),
    )
