import sqlite3

import numpy as np
import pytest

from soractl.errors import SoractlError
from soractl.monitor import store
from soractl.monitor.record import numbers, unpack
from soractl.monitor.sample import Values
from soractl.monitor.store import Store

NOON = 1_796_040_000  # 2026-11-30 12:00 UTC


def node(power=600.0, **counters):
    gpu = {"power_w": power, "util_pct": 99.0, "temp_c": 60.0, "clock_mhz": 1755.0}
    return Values(
        node={"load": 1.0, "cpu_pct": 5.0, "mem_available_mib": 1e6},
        gpus={0: {**gpu, "mem_mib": 7e4, "reasons": 4.0}},
        counters=counters,
        facts={"GPU 0": {"name": "H100"}},
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def powers(rows, which=slice(None)):
    return numbers(unpack(rows.blobs, rows.layout), "gpus", "power_w")[which, 0].tolist()


def test_looks_come_back_by_node_and_time(folder):
    kept = Store(folder)
    kept.add(NOON, {"n1": node(500), "n2": node(600)})
    kept.add(NOON + 5, {"n1": node(510)})
    kept.close()
    first, second = store.read_looks(folder, NOON, NOON + 60, ["n1", "n2"])
    assert (first.node, first.unix_s, powers(first)) == ("n1", [NOON, NOON + 5], [500, 510])
    assert (second.node, second.unix_s, powers(second)) == ("n2", [NOON], [600])
    assert store.read_looks(folder, NOON, NOON + 5, ["n3"]) == []
    assert store.last_look_unix_s(folder) == NOON + 5


def test_a_minute_is_made_once_it_is_over_of_the_looks_on_disk(folder):
    kept = Store(folder)
    for second, power in ((0, 500), (5, 700), (60, 300)):
        kept.add(NOON + second, {"n1": node(power)})
    kept.close_minutes(NOON + 59)
    assert store.read_minutes(folder, NOON, NOON + 3600, ["n1"]) == []
    kept.close_minutes(NOON + 61)
    [rows] = store.read_minutes(folder, NOON, NOON + 3600, ["n1"])
    assert (rows.unix_s, rows.looks, powers(rows)) == ([NOON], [2], [600, 500, 700])
    kept.close()


def test_a_monitor_that_was_killed_loses_no_minute(folder):
    kept = Store(folder)
    for minute in range(5):
        kept.add(NOON + 60 * minute, {"n1": node()})
    kept.close()  # without a summary
    later = Store(folder)
    later.close_minutes(NOON + 300)
    later.close()
    [rows] = store.read_minutes(folder, NOON, NOON + 3600, ["n1"])
    assert rows.unix_s == [NOON + 60 * minute for minute in range(5)]


def test_a_node_that_gets_more_gpus_keeps_both_layouts(folder):
    kept = Store(folder)
    kept.add(NOON, {"n1": Values(node={})})
    kept.add(NOON + 60, {"n1": node()})
    kept.close_minutes(NOON + 120)
    kept.close()
    rows = store.read_minutes(folder, NOON, NOON + 120, ["n1"])
    assert [(one.unix_s, one.layout.gpus) for one in rows] == [([NOON], ()), ([NOON + 60], (0,))]


def test_counters_are_kept_when_they_change(folder):
    kept = Store(folder)
    for second, errors in ((0, 3), (5, 3), (10, 4), (15, 4)):
        kept.add(NOON + second, {"n1": node(symbol_error=errors)})
    kept.close()
    assert store.read_counters(folder, "n1") == [("symbol_error", NOON + 10, 4)]
    with sqlite3.connect(folder / "minutes.db") as minutes:
        assert minutes.execute("SELECT count(*) FROM counter").fetchone() == (2,)
    minutes.close()


def test_words_of_a_node_come_back(folder):
    kept = Store(folder)
    kept.add(NOON, {"n1": node()})
    kept.close()
    assert store.read_facts(folder, "n1") == {"GPU 0": {"name": "H100"}}
    assert store.read_facts(folder, "n2") == {}


def test_clocks_and_their_steps_come_back(folder):
    kept = Store(folder)
    kept.add_clock(NOON, "n1", -0.35, 1e-4)
    kept.add_step(NOON + 2.5, "n1", -0.35, 1e-4)
    kept.close()
    [row] = store.read_clocks(folder, NOON, NOON + 60, ["n1"])
    assert (row.node, row.unix_s) == ("n1", NOON)
    assert np.allclose((row.offset_s, row.bound_s), (-0.35, 1e-4))
    assert store.read_steps(folder, NOON, NOON + 60) == [(NOON + 2.5, "n1", -0.35, 1e-4)]


def test_a_day_has_a_file_which_goes_when_it_is_old(folder):
    kept = Store(folder, keep_days=2)
    for day in range(4):
        kept.add(NOON + day * 86400, {"n1": node()})
        kept.close_minutes(NOON + day * 86400 + 60)
    kept.forget(NOON + 3 * 86400)
    kept.close()
    found = sorted(path.name for path in folder.glob("looks-*.db"))
    assert found == ["looks-2026-12-01.db", "looks-2026-12-02.db", "looks-2026-12-03.db"]
    [rows] = store.read_minutes(folder, NOON, NOON + 4 * 86400, ["n1"])
    assert len(rows.unix_s) == 4


def test_minutes_go_after_90_days(folder):
    kept = Store(folder)
    kept.add(NOON, {"n1": node(symbol_error=3)})
    kept.add_clock(NOON, "n1", 0.0, 1e-4)
    kept.close_minutes(NOON + 60)
    kept.forget(NOON + 91 * 86400)
    kept.close()
    assert store.read_minutes(folder, NOON, NOON + 60, ["n1"]) == []
    assert store.read_clocks(folder, NOON, NOON + 60, ["n1"]) == []
    assert store.read_counters(folder, "n1") == []


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SoractlError, match="file") as error:
        Store(tmp_path / "file" / "store")
    assert "--store" in error.value.hint
    with pytest.raises(SoractlError, match=r"file: no folder$"):
        Store(tmp_path / "file")


def test_an_empty_folder_has_no_last_look(tmp_path):
    assert store.last_look_unix_s(tmp_path) is None
    with pytest.raises(SoractlError, match=r"minutes\.db"):
        store.read_minutes(tmp_path, NOON, NOON + 60, ["n1"])


def test_readers_see_what_is_written_beside_them(folder):
    kept = Store(folder)
    kept.add(NOON, {"n1": node()})
    assert store.last_look_unix_s(folder) == NOON
    kept.add(NOON + 5, {"n1": node()})
    assert store.last_look_unix_s(folder) == NOON + 5
    kept.close()
