"""Store of what was seen of nodes, in SQLite: looks in a file a day, minutes in one that is kept.

A look is a blob whose key is `unix_s << 16 | node`, so that a span of time is a range of keys. A
minute is made of the looks that are on disk, so a monitor that was killed loses none. Counters are
kept when they change. A day's file is deleted whole, since SQLite gives no disk back for rows.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.monitor.record import Layout, layout_from, layout_of, pack, summaries
from soractl.monitor.sample import Values

MINUTE_S = 60
DAY_S = 86400
KEEP_MINUTES_DAYS = 90
NODE_BITS = 16
DEFAULT_FOLDER = Path("~/.local/state/soractl/monitor")
TABLES = """
CREATE TABLE IF NOT EXISTS node (number INTEGER PRIMARY KEY, name TEXT UNIQUE, facts TEXT);
CREATE TABLE IF NOT EXISTS layout (number INTEGER PRIMARY KEY, text TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS minute
  (id INTEGER PRIMARY KEY, layout INTEGER, looks INTEGER, data BLOB);
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY, offset_us INTEGER, bound_us INTEGER);
CREATE TABLE IF NOT EXISTS counter
  (node INTEGER, name TEXT, unix_s INTEGER, value INTEGER, PRIMARY KEY (node, name, unix_s))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS step (unix_s REAL, node INTEGER, size_s REAL, bound_s REAL);
"""
LOOKS = "CREATE TABLE IF NOT EXISTS look (id INTEGER PRIMARY KEY, layout INTEGER, data BLOB)"


@dataclass(frozen=True)
class Rows:
    """Records of one node and layout over time, oldest first."""

    node: str
    layout: Layout
    unix_s: list[int]
    blobs: list[bytes]
    looks: list[int]  # in each minute; of single looks 1


@dataclass(frozen=True)
class ClockRow:
    """A node's clock against this machine's."""

    node: str
    unix_s: int
    offset_s: float
    bound_s: float


class Store:
    """The one writer of a folder; SoractlError where it cannot be written."""

    def __init__(self, folder: Path, keep_days: int = 7) -> None:
        self._folder, self._keep_days = folder, keep_days
        self._day = ""
        self._looks: sqlite3.Connection | None = None
        self._layouts: dict[Layout, int] = {}
        self._nodes: dict[str, int] = {}
        self._counters: dict[tuple[str, str], int] = {}
        self._facts: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._minutes = _opened(folder / "minutes.db", TABLES)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(folder, error) from None

    def add(self, unix_s: int, found: Mapping[str, Values]) -> None:
        """The looks of one moment."""
        looks = self._looks_of(unix_s)
        rows = []
        for name, values in found.items():
            layout = layout_of(values)
            key = unix_s << NODE_BITS | self._node(name)
            rows.append((key, self._layout(layout), pack(values, layout)))
        with looks:
            looks.executemany("INSERT OR REPLACE INTO look VALUES (?, ?, ?)", rows)
        with self._minutes:
            for name, values in found.items():
                self._note(name, unix_s, values)

    def add_clock(self, unix_s: int, node: str, offset_s: float, bound_s: float) -> None:
        """A measurement of a node's clock."""
        key = unix_s << NODE_BITS | self._node(node)
        row = (key, round(offset_s * 1e6), round(bound_s * 1e6))
        with self._minutes:
            self._minutes.execute("INSERT OR REPLACE INTO clock VALUES (?, ?, ?)", row)

    def add_step(self, unix_s: float, node: str, size_s: float, bound_s: float) -> None:
        """A step of a node's clock."""
        with self._minutes:
            row = (unix_s, self._node(node), size_s, bound_s)
            self._minutes.execute("INSERT INTO step VALUES (?, ?, ?, ?)", row)

    def close_minutes(self, until_unix_s: int) -> None:
        """Summaries of all minutes that ended before a moment and have none yet."""
        end = until_unix_s // MINUTE_S * MINUTE_S
        [last] = self._minutes.execute("SELECT max(id) >> 16 FROM minute").fetchone()
        begin = max((last or 0) + MINUTE_S, end - self._keep_days * DAY_S)
        if begin >= end:
            return
        looks: dict[int, list[tuple[int, bytes]]] = {}  # by layout
        for key, number, data in _look_rows(self._folder, begin, end):
            minute = key >> NODE_BITS
            of_minute = minute // MINUTE_S * MINUTE_S << NODE_BITS | key & 0xFFFF
            looks.setdefault(number, []).append((of_minute, data))
        layouts = _layouts(self._minutes)
        rows = [
            (key, number, count, data)
            for number, some in looks.items()
            if number in layouts
            for key, count, data in _minutes_of(some, layouts[number])
        ]
        with self._minutes:
            self._minutes.executemany("INSERT OR REPLACE INTO minute VALUES (?, ?, ?, ?)", rows)

    def forget(self, now_unix_s: float) -> None:
        """Deletes what is older than it is kept."""
        oldest = _day(now_unix_s - self._keep_days * DAY_S)
        for file in self._folder.glob("looks-*.db*"):
            if file.name[6:16] < oldest:
                file.unlink(missing_ok=True)
        least = int(now_unix_s) - KEEP_MINUTES_DAYS * DAY_S
        with self._minutes:
            for table in ("minute", "clock"):
                self._minutes.execute(f"DELETE FROM {table} WHERE id < ?", (least << NODE_BITS,))
            for table in ("counter", "step"):
                self._minutes.execute(f"DELETE FROM {table} WHERE unix_s < ?", (least,))

    def close(self) -> None:
        """Ends the files' use; what was added is on disk."""
        for connection in (self._looks, self._minutes):
            if connection is not None:
                connection.close()

    def _looks_of(self, unix_s: int) -> sqlite3.Connection:
        day = _day(unix_s)
        if self._looks is None or day != self._day:
            if self._looks is not None:
                self._looks.close()
            self._looks, self._day = _opened(_looks_file(self._folder, day), LOOKS), day
        return self._looks

    def _node(self, name: str) -> int:
        if name not in self._nodes:
            with self._minutes:
                self._minutes.execute("INSERT OR IGNORE INTO node (name) VALUES (?)", (name,))
            query = "SELECT number FROM node WHERE name = ?"
            [self._nodes[name]] = self._minutes.execute(query, (name,)).fetchone()
        return self._nodes[name]

    def _layout(self, layout: Layout) -> int:
        if layout not in self._layouts:
            text = json.dumps(layout.as_json())
            with self._minutes:
                self._minutes.execute("INSERT OR IGNORE INTO layout (text) VALUES (?)", (text,))
            query = "SELECT number FROM layout WHERE text = ?"
            [self._layouts[layout]] = self._minutes.execute(query, (text,)).fetchone()
        return self._layouts[layout]

    def _note(self, name: str, unix_s: int, values: Values) -> None:
        """Counters that changed, and what is known of the node in words."""
        node = self._node(name)
        for counter, value in values.counters.items():
            if self._counters.get((name, counter)) != value:
                self._counters[name, counter] = value
                row = (node, counter, unix_s, value)
                self._minutes.execute("INSERT OR REPLACE INTO counter VALUES (?, ?, ?, ?)", row)
        facts = json.dumps({key: fact for key, fact in values.facts.items() if key != "node"})
        if self._facts.get(name) != facts:
            self._facts[name] = facts
            self._minutes.execute("UPDATE node SET facts = ? WHERE number = ?", (facts, node))


def read_looks(folder: Path, begin: int, end: int, nodes: Sequence[str]) -> list[Rows]:
    """The single looks of nodes in a span of time, in seconds since 1970."""
    with _reading(folder) as minutes:
        found = ((key, layout, 1, data) for key, layout, data in _look_rows(folder, begin, end))
        return _rows(minutes, found, nodes)


def read_minutes(folder: Path, begin: int, end: int, nodes: Sequence[str]) -> list[Rows]:
    """The minutes of nodes in a span of time."""
    with _reading(folder) as minutes:
        query = "SELECT id, layout, looks, data FROM minute WHERE id >= ? AND id < ? ORDER BY id"
        return _rows(minutes, minutes.execute(query, _keys(begin, end)), nodes)


def read_clocks(folder: Path, begin: int, end: int, nodes: Sequence[str]) -> list[ClockRow]:
    """The clocks of nodes in a span of time."""
    with _reading(folder) as minutes:
        names = _names(minutes, nodes)
        query = "SELECT id, offset_us, bound_us FROM clock WHERE id >= ? AND id < ? ORDER BY id"
        return [
            ClockRow(names[key & 0xFFFF], key >> NODE_BITS, offset * 1e-6, bound * 1e-6)
            for key, offset, bound in minutes.execute(query, _keys(begin, end))
            if key & 0xFFFF in names
        ]


def read_steps(folder: Path, begin: float, end: float) -> list[tuple[float, str, float, float]]:
    """Steps of clocks: when, the node, the size and its bound in seconds."""
    query = """SELECT unix_s, name, size_s, bound_s FROM step JOIN node ON number = node
               WHERE unix_s >= ? AND unix_s < ? ORDER BY unix_s"""
    with _reading(folder) as minutes:
        return minutes.execute(query, (begin, end)).fetchall()


def read_counters(folder: Path, node: str) -> list[tuple[str, int, int]]:
    """A node's counters: name, when it last changed, value."""
    query = """SELECT counter.name, max(unix_s), value FROM counter JOIN node ON number = node
               WHERE node.name = ? GROUP BY counter.name ORDER BY counter.name"""
    with _reading(folder) as minutes:
        return minutes.execute(query, (node,)).fetchall()


def read_facts(folder: Path, node: str) -> dict[str, Any]:
    """Facts of a node's GPUs, ports and interfaces, in words."""
    with _reading(folder) as minutes:
        query = "SELECT facts FROM node WHERE name = ?"
        found = minutes.execute(query, (node,)).fetchone()
        return dict(json.loads(found[0])) if found and found[0] else {}


def first_unix_s(folder: Path, after: float) -> int | None:
    """When the first minute after a moment begins that has anything; None if none has."""
    with _reading(folder) as minutes:
        query = "SELECT min(id) >> 16 FROM minute WHERE id >= ?"
        [first] = minutes.execute(query, (int(after) << NODE_BITS,)).fetchone()
        return None if first is None else int(first)


def last_look_unix_s(folder: Path) -> int | None:
    """When something was seen last; None in an empty store."""
    newest = sorted(folder.glob("looks-*.db"))[-1:]
    for file in newest:
        with _opened_to_read(file) as looks:
            [last] = looks.execute("SELECT max(id) >> 16 FROM look").fetchone()
            return last if last is None else int(last)
    return None


def _minutes_of(looks: list[tuple[int, bytes]], layout: Layout) -> Iterator[tuple[int, int, bytes]]:
    """Key, number of looks and summary of each minute of each node."""
    looks.sort(key=lambda look: look[0])
    starts = [i for i, (key, _) in enumerate(looks) if i == 0 or looks[i - 1][0] != key]
    found = summaries([data for _, data in looks], starts, layout)
    for start, end, data in zip(starts, [*starts[1:], len(looks)], found, strict=True):
        yield looks[start][0], end - start, data


def _rows(minutes: sqlite3.Connection, found: Any, nodes: Sequence[str]) -> list[Rows]:
    names, layouts = _names(minutes, nodes), _layouts(minutes)
    rows: dict[tuple[int, int], Rows] = {}
    for key, number, looks, data in found:
        node = key & 0xFFFF
        if node not in names or number not in layouts:
            continue
        layout = layouts[number]
        of = rows.setdefault((node, number), Rows(names[node], layout, [], [], []))
        of.unix_s.append(key >> NODE_BITS)
        of.blobs.append(data)
        of.looks.append(looks)
    return list(rows.values())


def _look_rows(folder: Path, begin: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    query = "SELECT id, layout, data FROM look WHERE id >= ? AND id < ? ORDER BY id"
    for day_s in range(begin // DAY_S * DAY_S, end, DAY_S):
        file = _looks_file(folder, _day(day_s))
        if file.exists():
            with _opened_to_read(file) as looks:
                yield from looks.execute(query, _keys(begin, end))


def _keys(begin: int, end: int) -> tuple[int, int]:
    return begin << NODE_BITS, end << NODE_BITS


def _names(minutes: sqlite3.Connection, nodes: Sequence[str]) -> dict[int, str]:
    wanted = set(nodes)
    found = minutes.execute("SELECT number, name FROM node")
    return {number: name for number, name in found if name in wanted}


def _layouts(minutes: sqlite3.Connection) -> dict[int, Layout]:
    stored = minutes.execute("SELECT number, text FROM layout")
    found = {number: layout_from(json.loads(text)) for number, text in stored}
    return {number: layout for number, layout in found.items() if layout is not None}


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    with _opened_to_read(folder / "minutes.db") as minutes:
        yield minutes


@contextmanager
def _opened_to_read(file: Path) -> Iterator[sqlite3.Connection]:
    connection = None
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        yield connection
    except sqlite3.Error as error:
        raise _unusable(file, error) from None
    finally:
        if connection is not None:
            connection.close()


def _opened(file: Path, tables: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=5, check_same_thread=False)
    with suppress(sqlite3.OperationalError):  # a file system without shared memory
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(tables)
    return connection


def _unusable(path: Path, error: Exception) -> SoractlError:
    is_file = isinstance(error, FileExistsError)  # where a folder was to be made
    return SoractlError(
        f"{path}: {'no folder' if is_file else getattr(error, 'strerror', None) or error}",
        hint="--store FOLDER takes another folder, best on a disk of this machine",
        exit_code=ExitCode.FAILED,
    )


def _day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))


def _looks_file(folder: Path, day: str) -> Path:
    return folder / f"looks-{day}.db"
