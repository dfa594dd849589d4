"""`data info`: tables or folders of clips become a table with every clip's numbers."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soractl.data import clip_queue
from soractl.data import table as data_table
from soractl.data.journal import Journal
from soractl.errors import ExitCode, Fault, SoractlError, exit_code_of
from soractl.remote.connections import Connections
from soractl.remote.nodes import this_machine
from soractl.terminal.meter import Show
from trainer.data.formats import IMAGES, VIDEOS

if TYPE_CHECKING:
    from pandas import DataFrame

STUCK_AFTER_S = 300.0  # a header is read, or at worst all frames are counted
NO_TEXT = "its name is no Unicode text, as a table needs it"


@dataclass(frozen=True)
class Wishes:
    """What was asked for."""

    inputs: tuple[Path, ...]  # tables, or folders of clips
    out: Path
    root: Path | None = None  # where the clips of a table lie, if its paths are not whole
    workers: int = 0  # 0: as many as cores

    @property
    def failures(self) -> Path:
        """The table of files that could not be read."""
        return self.out.with_name(f"{self.out.stem}.failed{self.out.suffix}")

    @property
    def journal(self) -> Path:
        """What is read already; there until the end."""
        return self.out.with_name(f".{self.out.name}.journal")


@dataclass(frozen=True)
class Info:
    """What came of it."""

    wishes: Wishes
    table: "DataFrame"  # the clips that could be read
    failed: "DataFrame"  # path, reason
    repeated: int  # rows with a path that another row has
    header_frames: "DataFrame"  # path, num_frames, header_frames of clips whose header differs
    lost: Fault | None = None  # why clips are left

    @property
    def exit_code(self) -> ExitCode:
        """1 if nothing could be read, 3 if some could not."""
        if self.lost:
            return exit_code_of([self.lost])
        if self.table.empty:
            return ExitCode.FAILED
        return ExitCode.SOME_FAILED if len(self.failed) else ExitCode.OK


def info(wishes: Wishes, show: Show) -> Info:
    """Measure every clip; what a killed command has measured is not measured again."""
    import pandas

    data_table.check_output(wishes.out, wishes.inputs)
    data_table.check_output(wishes.failures, wishes.inputs)
    needs_decoder()
    if wishes.root is not None and not _is_text(str(wishes.root)):
        raise SoractlError(f"--root {bytes(wishes.root)!r}: {NO_TEXT}")
    clips, nameless = _clips(wishes)
    repeated = int(clips["path"].duplicated().sum())
    clips = clips.drop_duplicates("path")
    with Journal(wishes.journal) as journal, Connections() as remote:
        reading = clip_queue.Reading("info", wishes.workers, STUCK_AFTER_S, hang_up=remote.close)
        tasks = [{"path": path} for path in clips["path"]]
        here = this_machine()
        lost = clip_queue.read_clips(
            tasks, [here], remote, reading=reading, journal=journal, show=show
        )
        table, failed = _measured(clips, journal)
        differing = _differing(table, journal)
    failed = pandas.concat([failed, nameless], ignore_index=True)
    told = Info(wishes, table, failed, repeated, differing, lost.get(here.name))
    if not told.lost:
        _write(told)
    return told


def needs_decoder() -> None:
    """SoractlError if this machine cannot read videos."""
    if any(importlib.util.find_spec(module) is None for module in ("av", "PIL")):
        raise SoractlError(
            "reading videos needs PyAV and Pillow", hint="pip install 'soractl[train]'"
        )


def _clips(wishes: Wishes) -> tuple["DataFrame", "DataFrame"]:
    """The clips to measure; path and reason of those whose names no table can hold."""
    import pandas

    tables: list[DataFrame] = []
    nameless: list[str] = []
    for path in wishes.inputs:
        if path.is_dir():
            found = [str(file) for file in _files(path)]
            if not found:
                raise SoractlError(f"{path}: no file ends in {', '.join((*VIDEOS, *IMAGES))}")
            names = [name for name in found if _is_text(name)]
            nameless += sorted({*found} - {*names})
            tables.append(pandas.DataFrame({"path": names, "text": ""}))
        else:
            table = data_table.read(path, measured=False)
            if wishes.root is not None:
                table["path"] = [str(wishes.root / name) for name in table["path"]]
            tables.append(table)
    written = [os.fsencode(name).decode(errors="backslashreplace") for name in nameless]
    faults = pandas.DataFrame({"path": written, "reason": NO_TEXT})
    return pandas.concat(tables, ignore_index=True), faults


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(folder: Path) -> list[Path]:
    """Videos and pictures below a folder, by name; hidden ones are left out."""
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
    """The rows that could be read with their numbers, and those that could not."""
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
    """Clips that show another number of frames than their headers say."""
    entries = [journal.entries[path].get("header_frames") for path in table["path"]]
    shown = table[["path", "num_frames"]].assign(header_frames=entries)
    return shown[shown["header_frames"].notna()].astype({"header_frames": int})


def _write(told: Info) -> None:
    wishes = told.wishes
    if len(told.failed):
        data_table.write(told.failed, wishes.failures)
    else:
        wishes.failures.unlink(missing_ok=True)
    if len(told.table):
        data_table.write(told.table, wishes.out)
    wishes.journal.unlink(missing_ok=True)
