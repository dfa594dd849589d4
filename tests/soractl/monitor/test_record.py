import numpy as np

from soractl.monitor.record import (
    Layout,
    layout_from,
    layout_of,
    numbers,
    pack,
    summaries,
    unpack,
)
from soractl.monitor.record import read as read_back
from soractl.monitor.sample import Values

RATES = {"in_bytes_per_s": 4.2e10, "out_bytes_per_s": None}


def node(power=612.3, util=99.0, reasons=4.0):
    gpu = {"power_w": power, "util_pct": util, "temp_c": 61.0}
    return Values(
        node={"load": 14.25, "cpu_pct": 9.5, "mem_available_mib": 1.4e6},
        gpus={i: {**gpu, "clock_mhz": 1755.0, "mem_mib": 71e3, "reasons": reasons} for i in (0, 7)},
        ports={"mlx5_1/1": RATES},
        links={"eno1": RATES},
    )


def read(blobs, part, key, layout):
    return numbers(unpack(blobs, layout), part, key).round(1).tolist()


def test_numbers_come_back_in_their_units_and_unknown_as_nan():
    layout = layout_of(node())
    blobs = [pack(node(), layout), pack(node(power=None), layout)]
    assert read(blobs[:1], "gpus", "power_w", layout)[0][0] == np.float32(612.3)
    assert np.isnan(read(blobs, "gpus", "power_w", layout)[1]).all()
    assert read(blobs[:1], "node", "load", layout)[0][0] == np.float32(14.2)
    assert read(blobs[:1], "ports", "in_bytes_per_s", layout)[0][0] == np.float32(4.2e10)
    assert np.isnan(read(blobs, "links", "out_bytes_per_s", layout)).all()


def test_a_node_of_eight_gpus_nine_ports_and_four_interfaces_takes_207_bytes():
    items = {f"p{i}": RATES for i in range(9)}
    links = {f"e{i}": RATES for i in range(4)}
    found = Values(node={}, gpus={i: {} for i in range(8)}, ports=items, links=links)
    assert len(pack(found, layout_of(found))) == 207


def test_what_is_beyond_the_range_is_its_end_and_not_unknown():
    layout = layout_of(node())
    blob = pack(node(power=1e9, util=-3.0), layout)
    assert read([blob], "gpus", "power_w", layout)[0][0] > 6553
    assert read([blob], "gpus", "util_pct", layout)[0][0] == 0.0


def test_a_minute_has_the_mean_the_least_and_the_most_of_what_is_known():
    layout = layout_of(node())
    looks = [node(600.0), node(None), node(700.0), node(None), node(None, reasons=8.0)]
    blobs = [pack(look, layout) for look in looks]
    first, second = summaries(blobs, [0, 3], layout)
    size = layout.dtype.itemsize
    three = [first[i : i + size] for i in range(0, len(first), size)]
    assert [row[0] for row in read(three, "gpus", "power_w", layout)] == [650.0, 600.0, 700.0]
    three = [second[i : i + size] for i in range(0, len(second), size)]
    assert np.isnan(read(three, "gpus", "power_w", layout)).all()
    assert [row[0] for row in read(three, "gpus", "reasons", layout)] == [12.0, 12.0, 12.0]


def test_a_layout_comes_back_and_one_of_another_version_does_not():
    layout = Layout((0, 7), ("mlx5_1/1",), ("eno1",))
    assert layout_from(layout.as_json()) == layout
    assert layout_from({**layout.as_json(), "version": 99}) is None


def test_one_look_is_read_back_as_it_was_packed():
    layout = layout_of(node())
    found = read_back(pack(node(power=None), layout), layout)
    assert found.gpus[7]["power_w"] is None
    assert found.gpus[7]["util_pct"] == 99.0
    assert (found.links["eno1"]["out_bytes_per_s"], found.node["cpu_pct"]) == (None, 9.5)
