import base64

import numpy as np
import pytest

from soractl.monitor.sample import Values
from soractl.monitor.store import Store
from soractl.monitor.window import MOST_COLUMNS, read_window, span_of

NOON = 1_796_040_000
NAMES = ["n1", "n2"]


def node(power):
    gpu = {"util_pct": 99.0, "temp_c": 60.0, "clock_mhz": 1.0, "mem_mib": 1.0, "reasons": 0.0}
    return Values(
        node={},
        gpus={i: {**gpu, "power_w": power + 100 * i} for i in range(2)},
        ports={"mlx5_1/1": {"in_bytes_per_s": 1e9, "out_bytes_per_s": 3e9}},
    )


@pytest.fixture
def folder(tmp_path):
    """Five hours of a look a minute; n2 is missing for three minutes, and dips for one."""
    kept = Store(tmp_path)
    for minute in range(300):
        found = {"n1": node(600)}
        if not 100 <= minute < 103:
            found["n2"] = node(200 if minute == 200 else 600)
        kept.add(NOON + 60 * minute, found)
        kept.add_clock(NOON + 60 * minute, "n1", -0.35 if minute == 50 else 1e-4, 1e-4)
    kept.close_minutes(NOON + 300 * 60)
    kept.close()
    return tmp_path


def cells(window, name):
    found = window["maps"][name]
    raw = np.frombuffer(base64.b64decode(found["cells"]), np.uint8)
    share = raw.reshape(len(found["rows"]), -1) / 254
    values = found["lo"] + (share**2 if found["sqrt"] else share) * (found["hi"] - found["lo"])
    return np.where(raw.reshape(values.shape) == 255, np.nan, values)


def missing(window):
    return np.frombuffer(base64.b64decode(window["missing"]), np.uint8).reshape(2, -1)


@pytest.mark.parametrize(
    ("length", "every_s", "step_s", "of_looks"),
    [
        (900, 5, 5, True),
        (7200, 5, 5, True),
        (7200, 1, 5, True),
        (7201, 5, 60, False),
        (86400, 5, 60, False),
        (7 * 86400, 5, 420, False),
        (7 * 86400 + 1, 5, 420, False),
    ],
)
def test_a_span_has_columns_of_looks_or_of_minutes(length, every_s, step_s, of_looks):
    span = span_of(NOON, NOON + length, every_s)
    assert (span.step_s, span.of_looks) == (step_s, of_looks)
    assert span.columns <= MOST_COLUMNS + 2
    assert span.begin <= NOON
    assert span.end >= NOON + length


def test_maps_have_a_row_a_gpu_or_a_node_and_unknown_where_nothing_was_seen(folder):
    window = read_window(folder, NAMES, span_of(NOON, NOON + 300 * 60, 5))
    assert window["maps"]["power"]["rows"] == [["n1", 0], ["n1", 1], ["n2", 0], ["n2", 1]]
    power = cells(window, "power")
    assert np.allclose(power[:2, 0], [600, 700], atol=2)
    assert np.isnan(power[2:, 100:103]).all()
    assert np.isnan(power).sum() == 6
    assert np.allclose(cells(window, "ib")[0, 0], 4e9, rtol=0.01)
    assert np.isnan(cells(window, "eth")).all()


def test_no_reduction_hides_a_gap_or_the_worst_minute(folder):
    window = read_window(folder, NAMES, span_of(NOON - 3 * 86400, NOON + 300 * 60, 5))
    minutes = window["missing_of"]
    assert minutes > 3
    power = cells(window, "power")
    column = (NOON + 200 * 60 - window["begin"]) // window["step_s"]
    assert np.allclose(power[2, column], 200, atol=2)
    gap = (NOON + 101 * 60 - window["begin"]) // window["step_s"]
    assert missing(window)[:, gap - 1 : gap + 2].sum(axis=1).tolist() == [0, 3]
    assert not np.isnan(power[2, gap])


def test_the_largest_offset_of_a_column_stays(folder):
    window = read_window(folder, NAMES, span_of(NOON - 3 * 86400, NOON + 300 * 60, 5))
    offsets = np.frombuffer(base64.b64decode(window["clocks"]), np.float32).reshape(2, -1)
    assert np.nanmin(offsets[0]) == -350.0
    assert np.isnan(offsets[1]).all()


def test_the_sum_of_all_nodes_is_a_line(folder):
    window = read_window(folder, NAMES, span_of(NOON, NOON + 300 * 60, 5))
    line = window["lines"]["ib_in"]
    raw = np.frombuffer(base64.b64decode(line["points"]), "<u2") / 65534
    values = line["lo"] + raw * (line["hi"] - line["lo"])
    assert np.allclose(values[[0, 101]], [2e9, 1e9])


def test_short_spans_show_single_looks(folder):
    window = read_window(folder, NAMES, span_of(NOON, NOON + 600, 60))
    assert (window["of_looks"], window["columns"]) == (True, 10)
    assert np.allclose(cells(window, "power")[:, 3], [600, 700, 600, 700], atol=2)
