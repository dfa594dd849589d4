"""Verdicts of `health` that changed, in SQLite, a file for each machine that asks.

A row is written when a check of a thing turns bad or good again; what never was bad has none.
Unknown is neither: what was known before it stands. Times of two machines are never compared: a
home may lie on NFS, so the machine is in the file's name.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from soractl.files.home import in_home
from soractl.health.check import Level
from soractl.health.examine import COUNTED_DAYS, Health, NodeHealth, Past, Since

FOLDER = Path("~/.local/state/soractl")
DAY_S = 86400
KEPT_DAYS = 30
BUSY_S = 2.0  # another look writes
UNUSABLE = (OSError, sqlite3.Error)
TABLES = """
CREATE TABLE IF NOT EXISTS first
  (node TEXT, name TEXT, unix_s INTEGER, PRIMARY KEY (node, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change
  (node TEXT, name TEXT, item TEXT, unix_s INTEGER, is_bad INTEGER,
   PRIMARY KEY (node, name, item, unix_s)) WITHOUT ROWID;
"""
LATEST = "SELECT node, name, item, max(unix_s), is_bad FROM change GROUP BY node, name, item"
TIMES = """
SELECT node, name, item, count(*) FROM change WHERE is_bad AND unix_s >= ?
GROUP BY node, name, item
"""
FORGET = """
DELETE FROM change WHERE unix_s < ? AND (NOT is_bad OR EXISTS (
  SELECT 1 FROM change AS later WHERE later.node = change.node AND later.name = change.name
  AND later.item = change.item AND later.unix_s > change.unix_s))
"""

Key = tuple[str, str, str]  # node, check, thing


def with_past(found: Health, folder: Path = FOLDER) -> Health:
    """The same with what is known of its findings; a note where nothing can be kept."""
    now, file = int(time.time()), folder / f"health-{os.uname().nodename}.db"
    try:
        return replace(found, past=remember(found.rows, now, in_home(file)))
    except UNUSABLE as error:
        note = f"the history of verdicts cannot be kept in {file}: {error}"
        return replace(found, notes=(*found.notes, note))


def remember(rows: Sequence[NodeHealth], now_unix_s: int, file: Path) -> Past:
    """Keeps what changed, and returns the past of all that is bad now."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=BUSY_S)) as kept:
        kept.executescript(TABLES)
        kept.execute("BEGIN IMMEDIATE")  # or two looks at once would count one event twice
        first = {
            tuple(key): at for *key, at in kept.execute("SELECT node, name, unix_s FROM first")
        }
        latest = {tuple(key): (at, bool(bad)) for *key, at, bad in kept.execute(LATEST)}
        now = dict(_states(rows))
        # A clock that stepped back does not put a change before the one it follows.
        changed = {
            key: max(now_unix_s, latest[key][0] + 1) if key in latest else now_unix_s
            for key, is_bad in now.items()
            if latest.get(key, (0, False))[1] is not is_bad
        }
        new = {key[:2] for key in now} - first.keys()
        if changed or new:
            _write(kept, [(*key, at, now[key]) for key, at in changed.items()], new, now_unix_s)
        kept.commit()
        since = now_unix_s - COUNTED_DAYS * DAY_S
        times = {tuple(key): count for *key, count in kept.execute(TIMES, [since])}
    latest |= {key: (at, now[key]) for key, at in changed.items()}
    first |= dict.fromkeys(new, now_unix_s)
    return Past(
        now_unix_s,
        {
            key: Since(latest[key][0], latest[key][0] <= first[key[:2]], times.get(key, 0))
            for key, is_bad in now.items()
            if is_bad
        },
    )


def _states(rows: Sequence[NodeHealth]) -> Iterator[tuple[Key, bool]]:
    """If a thing is bad by a check, for all of which that is known."""
    for row in rows:
        for finding in (*row.findings, *(finding for finding, _ in row.silenced)):
            if finding.level is not Level.UNKNOWN:
                is_bad = finding.level is not Level.GOOD
                yield (row.node.name, finding.check.id, finding.item), is_bad


def _write(
    kept: sqlite3.Connection,
    changes: list[tuple[str, str, str, int, bool]],
    new: set[tuple[str, str]],
    now: int,
) -> None:
    kept.executemany("INSERT OR REPLACE INTO change VALUES (?, ?, ?, ?, ?)", changes)
    kept.executemany("INSERT OR IGNORE INTO first VALUES (?, ?, ?)", [(*n, now) for n in new])
    kept.execute(FORGET, [now - KEPT_DAYS * DAY_S])
