from itertools import pairwise
from pathlib import Path

import pytest

from soractl.monitor.sample import (
    GPU_FIELDS,
    SATURATED,
    parse,
    refused_field,
    values,
    with_names,
)

GPU = (
    "0, 612.04, 99, 61, 1755, 71234, 0x0000000000000004, 3, 0, 700.00, 81559, NVIDIA H100 80GB HBM3"
)
PORT = "ib mlx5_1/1 4 400 InfiniBand {i} {o} 0 0 255 0 14 9"
LINK = "eth eno1 up 25000 3 {i} {o} 0 0 1 2"


H200 = Path(__file__).parents[2] / "recorded" / "h200-node" / "monitor-probe.txt"


def line(up=100.0, *records):
    return "\t".join([f"look {up:.2f}", "load 2.50", *records])


def sample(up=100.0, *records):
    return with_names(parse(line(up, *records)), GPU_FIELDS)


def gpus(up, at):
    return sample(up, f"smi S {at}", f"gpu {GPU}")


def test_a_look_without_gpus_and_links_is_whole():
    found = values(None, sample(100.0, "cpu 10 0 10 80 0", "mem 1024 512"), 15)
    assert found.node == {"load": 2.5, "cpu_pct": None, "mem_available_mib": 0.5}
    assert (found.gpus, found.ports, found.links) == ({}, {}, {})


def test_a_gpu_has_its_numbers_its_counters_and_its_words():
    found = values(None, gpus(100.0, 98.0), 15)
    assert found.gpus == {
        0: {
            "power_w": 612.04,
            "util_pct": 99.0,
            "temp_c": 61.0,
            "clock_mhz": 1755.0,
            "mem_mib": 71234.0,
            "reasons": 4.0,
        }
    }
    assert found.counters == {"GPU 0 ecc_corrected": 3, "GPU 0 ecc_uncorrected": 0}
    assert found.facts["GPU 0"] == {
        "name": "NVIDIA H100 80GB HBM3",
        "power_limit_w": "700.00",
        "mem_mib": "81559",
    }


def test_numbers_of_an_nvidia_smi_that_prints_no_more_are_unknown():
    assert values(None, gpus(113.0, 98.0), 15).gpus[0]["power_w"] == 612.04
    assert set(values(None, gpus(113.1, 98.0), 15).gpus[0].values()) == {None}
    assert set(values(None, gpus(113.0, "?"), 15).gpus[0].values()) == {None}


def test_what_a_driver_does_not_report_is_unknown_and_never_0():
    text = "0, [N/A], [Not Supported], 61, [N/A], [N/A], [N/A], [N/A], [N/A], 700.00, 81559, H100"
    found = values(None, sample(100.0, "smi S 99", f"gpu {text}"), 15)
    known = {"temp_c": 61.0}
    assert {key: value for key, value in found.gpus[0].items() if value is not None} == known
    assert found.counters == {}


def test_infiniband_counts_words_of_four_bytes():
    before = sample(100.0, PORT.format(i=1000, o=500))
    now = sample(105.0, PORT.format(i=2250, o=1000))
    rates = {"in_bytes_per_s": 1000.0, "out_bytes_per_s": 400.0}
    assert values(before, now, 15).ports == {"mlx5_1/1": rates}


def test_ethernet_counts_bytes():
    before = sample(100.0, LINK.format(i=1000, o=500))
    now = sample(102.0, LINK.format(i=3000, o=500))
    rates = {"in_bytes_per_s": 1000.0, "out_bytes_per_s": 0.0}
    assert values(before, now, 15).links == {"eno1": rates}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((100.0, 5000), (105.0, 20)),  # the port was reset
        ((100.0, 5000), (3.0, 6000)),  # the node was started anew
        ((100.0, "?"), (105.0, 20)),
        ((100.0, 5000), (105.0, SATURATED)),  # a port without 64-bit counters stands still there
    ],
)
def test_a_rate_that_cannot_be_known_is_unknown_and_never_negative(before, now):
    then, later = (sample(up, PORT.format(i=count, o=0)) for up, count in (before, now))
    assert values(then, later, 15).ports["mlx5_1/1"]["in_bytes_per_s"] is None


def test_a_port_that_is_new_has_no_rate_yet():
    now = sample(105.0, PORT.format(i=1, o=1))
    assert set(values(sample(100.0), now, 15).ports["mlx5_1/1"].values()) == {None}


def test_counters_of_errors_are_totals_under_the_name_of_their_port():
    found = values(None, sample(100.0, PORT.format(i=1, o=1), LINK.format(i=1, o=1)), 15)
    assert found.counters == {
        "mlx5_1/1 symbol_error": 0,
        "mlx5_1/1 link_error_recovery": 0,
        "mlx5_1/1 link_downed": 255,
        "mlx5_1/1 rcv_errors": 0,
        "mlx5_1/1 xmit_discards": 14,
        "mlx5_1/1 xmit_wait": 9,
        "eno1 carrier_changes": 3,
        "eno1 rx_errors": 0,
        "eno1 tx_errors": 0,
        "eno1 rx_dropped": 1,
        "eno1 tx_dropped": 2,
    }


def test_the_processors_are_busy_by_what_was_neither_idle_nor_waiting():
    before = sample(100.0, "cpu 100 0 100 700 100 0 0 0 50 0")
    now = sample(105.0, "cpu 150 0 110 760 180 0 0 0 60 0")
    assert values(before, now, 15).node["cpu_pct"] == 30.0


@pytest.mark.parametrize("text", ["", "motd of the site", "look x", "look 1 2"])
def test_what_is_no_look_is_refused(text):
    with pytest.raises(ValueError, match=r"no look|float"):
        parse(text)


def test_the_field_that_an_older_driver_refuses_is_read_from_its_answer():
    assert refused_field('Field "clocks.sm" is not a valid field to query.') == "clocks.sm"
    assert refused_field("Unable to determine the device handle for GPU 3") is None


def test_looks_at_a_real_gpu_have_all_numbers_once_nvidia_smi_has_answered():
    looks = [with_names(parse(text), GPU_FIELDS) for text in H200.read_text().splitlines()]
    assert len(looks) == 12
    found = [values(before, now, 15).gpus for before, now in pairwise(looks)]
    assert {name for one in found for name, value in one[0].items() if value is None} == set()
    power = [one[0]["power_w"] for one in found]
    assert (min(power), max(power)) == (75.57, 118.5)
    assert values(None, looks[0], 15).gpus == {}  # it had not answered yet
