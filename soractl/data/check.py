"""`data check`: decodes every clip of a table, on many nodes, and keeps the healthy ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.clips import clip_queue
from soractl.clips.journal import Journal
from soractl.cluster import settings as cluster_settings
from soractl.data import table as data_table
from soractl.errors import ExitCode, Fault, SoractlError, exit_code_of
from soractl.remote.connections import Connections
from soractl.remote.nodes import NodeSource, find_nodes
from soractl.terminal.meter import Show
from soractl.terminal.text import span

if TYPE_CHECKING:
    from pandas import DataFrame


LONGEST_S = 86_400.0  # for a clip


@dataclass(frozen=True)
class CheckOptions:
    """Options of `data check`."""

    table: Path
    out: Path | None = None
    hostfile: str | None = None
    workers: int = 0  # a node; 0: as many as cores
    timeout_s: float = 300.0  # a clip
    resume: bool = False
    retry_failed: bool = False

    @property
    def journal(self) -> Path:
        """The job log: one line for each clip."""
        return self.table.with_name(f"{self.table.stem}.check.jsonl")


@dataclass(frozen=True)
class Checked:
    """Result of `data check`."""

    options: CheckOptions
    source: NodeSource
    table: "DataFrame"
    healthy: "DataFrame"
    failed: tuple[Mapping[str, Any], ...]  # entries of the job log
    left: int  # clips that are not checked
    lost: Mapping[str, Fault]  # nodes that were given up, with the reason

    @property
    def written(self) -> Path | None:
        """The table of healthy clips, if one is written."""
        return self.options.out if len(self.healthy) and not self.left else None

    @property
    def series(self) -> "dict[str, DataFrame]":
        """Tables to draw beside each other, by their label; none if no table is written."""
        return {"all": self.table, "healthy": self.healthy} if self.written else {}

    @property
    def healthy_clips(self) -> int:
        """Number of healthy clips; the table may hold one in several rows."""
        return int(self.table["path"].nunique()) - self.left - len(self.failed)

    @property
    def exit_code(self) -> ExitCode:
        """Exit code: 1 if no clip is healthy, 3 if some are not; if clips are left, why."""
        if self.left:
            return exit_code_of(self.lost.values())
        if self.failed:
            return ExitCode.FAILED if self.healthy.empty else ExitCode.SOME_FAILED
        return ExitCode.OK


def check(
    options: CheckOptions,
    environ: Mapping[str, str],
    show: Show,
    timing: clip_queue.QueueTiming = clip_queue.TIMING,
) -> Checked:
    """Decode every clip that is not in the job log; the nodes share the work.

    SoractlError if the table cannot be read, an output cannot be written, or the table was checked
    before and no option says what to do.
    """
    if not 0 < options.timeout_s <= LONGEST_S:
        raise SoractlError(
            f"--timeout must be more than 0 s and at most {span(LONGEST_S)}: {options.timeout_s:g}"
        )
    if options.out is not None:
        data_table.check_output(options.out, [options.table])
    table = data_table.read(options.table)
    source = find_nodes(options.hostfile, environ=environ)
    cluster, _ = cluster_settings.load(source.hostfile)
    _refuse_existing_journal(options)
    with Journal(options.journal) as journal, Connections(cluster.ssh) as remote:
        reading = clip_queue.ClipReading("check", options.workers, options.timeout_s, cluster)
        nodes = [node for node in source.nodes if not node.spare]
        readers = clip_queue.Readers(nodes, remote, reading, remote.close, timing)
        if options.retry_failed:
            journal.forget(lambda entry: not entry["ok"])
        lost = clip_queue.read_clips(_tasks(table), readers, journal, show)
        result = _result(options, source, table, journal, lost)
    if result.written is not None:
        data_table.write(result.healthy, result.written)
    return result


def _refuse_existing_journal(options: CheckOptions) -> None:
    """SoractlError if the job log holds clips and neither --resume nor --retry-failed is given."""
    is_begun = options.journal.is_file() and options.journal.stat().st_size
    if is_begun and not (options.resume or options.retry_failed):
        raise SoractlError(
            f"{options.journal}: this table was checked before, at least in part",
            hint="--resume continues; --retry-failed also checks the failed clips again; "
            f"rm {options.journal} starts again",
            exit_code=ExitCode.REFUSED,
        )


def _tasks(table: "DataFrame") -> list[dict[str, Any]]:
    """Each path once, with the number of frames that the table says."""
    import pandas

    paths = table["path"].tolist()
    frames: list[Any] = [None] * len(paths)
    if "num_frames" in table.columns:
        numbers = pandas.to_numeric(table["num_frames"], errors="coerce")
        frames = [None if pandas.isna(number) else int(number) for number in numbers]
    expected = dict(zip(paths, frames, strict=True))
    return [{"path": path, "num_frames": number} for path, number in expected.items()]


def _result(
    options: CheckOptions,
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
        options=options,
        source=source,
        table=table,
        healthy=table[healthy.to_numpy(dtype=bool)],
        failed=tuple(entry for entry in known if not entry["ok"]),
        left=len(paths) - len(known),
        lost=dict(lost),
    )
