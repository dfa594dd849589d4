from soractl.cluster import gpu_columns, gpu_report
from soractl.cluster.gpu_columns import Number
from tests.soractl.cluster.test_gpus import (
    MIB,
    RECORDED,
    combined_of,
    node_that_says,
    read,
    read_here,
)


def test_sums_and_means_are_over_the_gpus_that_answer():
    row = read(node_that_says((RECORDED / "unknown-error.txt").read_text()))
    found = {number.key: combined_of(row, number.key, sum) for number in gpu_columns.NUMBERS}
    assert found == {
        "util_pct": 98.0,
        "mem_used_bytes": 71234 * MIB,
        "mem_total_bytes": 2 * 81559 * MIB,
        "power_w": 697.81,
        "temp_c": 61.0,
    }


def test_a_new_number_is_one_line_from_the_question_to_the_table(stand_in, monkeypatch):
    fan = Number(
        key="fan_pct", query="fan.speed", most=100, columns={"FAN %": max}, nvml=lambda *_: 30
    )
    monkeypatch.setattr(gpu_columns, "NUMBERS", (*gpu_columns.NUMBERS, fan))
    (stand_in / "gpus.csv").write_text(
        "index, uuid, name, utilization.gpu, memory.used, memory.total, power.draw, "
        "temperature.gpu, mig.mode.current, fan.speed\n"
        "0, GPU-a, H100, 0, 1, 81559, 70, 30, Disabled, 40\n"
        "1, GPU-b, H100, 0, 1, 81559, 70, 30, Disabled, 60\n"
    )
    row = read_here()
    assert [gpu["fan_pct"] for gpu in row.gpus] == [40, 60]
    for what, cells in (("nodes", ["60"]), ("gpus", ["40", "60"])):
        table = gpu_report.table([row], what)
        at = table.headers.index("FAN %")
        assert [cell[at] for cell in table.rows] == cells
    assert gpu_report.as_json([row])["nodes"][0]["gpus"][1]["fan_pct"] == 60


def test_a_number_that_cannot_be_is_unknown_and_noted():
    row = read(node_that_says("0, GPU-a, H100, 4294967295, 90, 80, 70, 30, Disabled\n"))
    assert (row.gpus[0]["util_pct"], row.gpus[0]["mem_used_bytes"]) == (None, None)
    assert row.notes == (
        "GPU 0: utilization.gpu says 4.29497e+09, which cannot be",
        "GPU 0: memory.used is more than memory.total",
    )
