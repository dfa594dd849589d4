"""`data info`: measures the clips of tables or folders, and writes a table of their numbers."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soractl.clips import clip_queue
from soractl.clips.journal import Journal
from soractl.data import table as data_table
from soractl.errors import ExitCode, Fault, SoractlError, exit_code_of
from soractl.remote.connections import Connections
from soractl.remote.nodes import this_machine
from soractl.terminal.meter import Show
from trainer.data.formats import IMAGES, VIDEOS

if TYPE_CHECKING:
    from pandas import DataFrame

STUCK_AFTER_S = 300.0  # a header is read, or at worst all frames are counted
NOT_TEXT = "its name is not Unicode text, which a table needs"


@dataclass(frozen=True)
class InfoOptions:
    """Options of `data info`."""

    inputs: tuple[Path, ...]  # tables, or folders of clips
    out: Path
    root: Path | None = None  # of the relative paths in tables
    workers: int = 0  # 0: as many as cores

    @property
    def failures(self) -> Path:
        """The table of files that could not be read."""
        return self.out.with_name(f"{self.out.stem}.failed{self.out.suffix}")

    @property
    def journal(self) -> Path:
        """The clips measured so far; removed at the end."""
        return self.out.with_name(f".{self.out.name}.journal")


@dataclass(frozen=True)
class Info:
    """Result of `data info`."""

    options: InfoOptions
    table: "DataFrame"  # the clips that could be read
    failed: "DataFrame"  # path, reason
    repeated: int  # rows with a path that another row has
    header_frames: "DataFrame"  # path, num_frames, header_frames of clips whose header differs
    lost: Fault | None = None  # why clips are left

    @property
    def written(self) -> Path | None:
        """The table of measured clips, if one is written."""
        return self.options.out if len(self.table) and not self.lost else None

    @property
    def written_failures(self) -> Path | None:
        """The table of files that could not be read, if one is written."""
        return self.options.failures if len(self.failed) and not self.lost else None

    @property
    def series(self) -> "dict[str, DataFrame]":
        """Tables to draw beside each other, by their label; none if no table is written."""
        return {"clips": self.table} if self.written else {}

    @property
    def exit_code(self) -> ExitCode:
        """Exit code: 1 if no clip could be read, 3 if some could not; if clips are left, why."""
        if self.lost:
            return exit_code_of([self.lost])
        if self.table.empty:
            return ExitCode.FAILED
        return ExitCode.SOME_FAILED if len(self.failed) else ExitCode.OK


def info(
    options: InfoOptions, show: Show, timing: clip_queue.QueueTiming = clip_queue.TIMING
) -> Info:
    """Measure every clip; clips that a killed command has measured are not measured again.

    SoractlError if an input cannot be read or an output cannot be written.
    """
    import pandas

    data_table.check_output(options.out, options.inputs)
    data_table.check_output(options.failures, options.inputs)
    needs_decoder()
    if options.root is not None and not _is_text(str(options.root)):
        raise SoractlError(f"--root {bytes(options.root)!r}: {NOT_TEXT}")
    clips, unnamable = _clips(options)
    repeated = int(clips["path"].duplicated().sum())
    clips = clips.drop_duplicates("path")
    with Journal(options.journal) as journal, Connections() as remote:
        reading = clip_queue.ClipReading("info", options.workers, STUCK_AFTER_S)
        here = this_machine()
        readers = clip_queue.Readers([here], remote, reading, remote.close, timing)
        tasks = [{"path": path} for path in clips["path"]]
        lost = clip_queue.read_clips(tasks, readers, journal, show)
        table, failed = _measured(clips, journal)
        differing = _differing(table, journal)
    failed = pandas.concat([failed, unnamable], ignore_index=True)
    result = Info(options, table, failed, repeated, differing, lost.get(here.name))
    if not result.lost:
        _write(result)
    return result


def needs_decoder() -> None:
    """SoractlError if this machine cannot read videos."""
    if any(importlib.util.find_spec(module) is None for module in ("av", "PIL")):
        raise SoractlError(
            "reading videos needs PyAV and Pillow", hint="pip install 'soractl[train]'"
        )


def _clips(options: InfoOptions) -> tuple["DataFrame", "DataFrame"]:
    """The clips to measure, and (path, reason) of those whose names no table can hold."""
    import pandas

    tables: list[DataFrame] = []
    unnamable: list[str] = []
    for path in options.inputs:
        if path.is_dir():
            found = [str(file) for file in _files(path)]
            if not found:
                raise SoractlError(f"{path}: no file in it ends in {', '.join((*VIDEOS, *IMAGES))}")
            names = [name for name in found if _is_text(name)]
            unnamable += sorted({*found} - {*names})
            tables.append(pandas.DataFrame({"path": names, "text": ""}))
        else:
            table = data_table.read(path, measured=False)
            if options.root is not None:
                table["path"] = [str(options.root / name) for name in table["path"]]
            tables.append(table)
    written = [os.fsencode(name).decode(errors="backslashreplace") for name in unnamable]
    faults = pandas.DataFrame({"path": written, "reason": NOT_TEXT})
    return pandas.concat(tables, ignore_index=True), faults


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    """Videos and pictures below a folder, by name, without hidden ones."""
    found = []
    for place, folders, names in os.walk(folder.absolute()):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place) / name
            for name in sorted(names)
            if Path(name).suffix.lower() in (*VIDEOS, *IMAGES) and not name.startswith(".")
        ]
    return found


def _measured(clips: "DataFrame", journal: Journal) -> tuple["DataFrame", "DataFrame"]:
    """The rows of measured clips with their numbers, and (path, reason) of the others."""
    import pandas

    entries = [journal.entries.get(path) for path in clips["path"]]
    good = [entry is not None and bool(entry["ok"]) for entry in entries]
    bad = [(entry["path"], entry["reason"]) for entry in entries if entry and not entry["ok"]]
    table = clips[good].reset_index(drop=True)
    measured = [entry for entry in entries if entry and entry["ok"]]
    for name in data_table.MEASURED:
        table[name] = [entry[name] for entry in measured]
    table = table[data_table.in_order(table.columns)]
    return table, pandas.DataFrame(bad, columns=["path", "reason"])


def _differing(table: "DataFrame", journal: Journal) -> "DataFrame":
    """Clips whose number of shown frames differs from their header's."""
    entries = [journal.entries[path].get("header_frames") for path in table["path"]]
    shown = table[["path", "num_frames"]].assign(header_frames=entries)
    return shown[shown["header_frames"].notna()].astype({"header_frames": int})


def _write(result: Info) -> None:
    options = result.options
    if len(result.failed):
        data_table.write(result.failed, options.failures)
    else:
        options.failures.unlink(missing_ok=True)
    if len(result.table):
        data_table.write(result.table, options.out)
    options.journal.unlink(missing_ok=True)
