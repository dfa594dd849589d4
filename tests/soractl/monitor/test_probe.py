"""The program that runs on nodes, under a made-up root and with a stand-in of nvidia-smi."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from soractl.monitor.sample import GPU_FIELDS, parse, values, with_names
from tests.waiting import wait_for

PROBE = Path(__file__).parents[3] / "soractl/monitor/probe.sh"
GPU_LINE = "0, 612.04, 99, 61, 1755, 71234, 0x0000000000000004, 0, 0, 700.00, 81559, NVIDIA H100"


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def plant(root, ports=1, interfaces=1):
    """A node's /proc and /sys."""
    write(root, "proc/uptime", "1000.50 8000.00")
    write(root, "proc/loadavg", "2.50 2.00 1.00 3/900 4711")
    write(root, "proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3 4")
    write(root, "proc/meminfo", "MemTotal: 1024 kB\nMemFree: 1 kB\nMemAvailable: 512 kB\nX: 1 kB")
    for i in range(ports):
        port = f"sys/class/infiniband/mlx5_{i}/ports/1"
        for name, text in {
            "state": "4: ACTIVE",
            "rate": "400 Gb/sec (4X NDR)",
            "link_layer": "InfiniBand",
            "counters/port_rcv_data": "1000",
            "counters/port_xmit_data": "2000",
            "counters/symbol_error": "0",
            "counters/link_error_recovery": "1",
            "counters/link_downed": "255",
            "counters/port_rcv_errors": "14",
            "counters/port_xmit_discards": "3",
            "counters/port_xmit_wait": "77",
        }.items():
            write(root, f"{port}/{name}", text)
    for i in range(interfaces):
        plant_interface(root, f"eno{i}")
    return root


def plant_interface(root, name, *, kind="1", is_real=True):
    folder = f"sys/class/net/{name}"
    texts = {"type": kind, "operstate": "up", "speed": "25000", "carrier_changes": "2"}
    for counter in ("rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped"):
        texts[f"statistics/{counter}"] = "5"
    for file, text in texts.items():
        write(root, f"{folder}/{file}", text)
    if is_real:
        (root / folder / "device").mkdir()


@pytest.fixture
def start(tmp_path):
    """Starts the probe under a root; `smi`: the stand-in's program."""
    running = []

    def start(root, smi=None, every_ms=50):
        bin_ = tmp_path / "bin"
        bin_.mkdir(exist_ok=True)
        if smi is not None:
            (bin_ / "nvidia-smi").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{smi}\n")
            (bin_ / "nvidia-smi").chmod(0o755)
        probe = subprocess.Popen(
            ["sh", str(PROBE), str(every_ms), ",".join(GPU_FIELDS), str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PATH": f"{bin_}:/usr/bin:/bin"},
            text=True,
        )
        running.append(probe)

        def look():
            probe.stdin.write("look\n")
            probe.stdin.flush()
            return with_names(parse(probe.stdout.readline().rstrip("\n")), GPU_FIELDS)

        look.probe = probe
        return look

    yield start
    for probe in running:
        probe.stdin.close()
        probe.wait(10)
        probe.stdout.close()


def test_a_node_has_its_system_ports_and_interfaces(tmp_path, start):
    found = start(plant(tmp_path / "root"))()
    assert (found.uptime_s, found.load, found.jiffies) == (1000.5, 2.5, (200, 1000))
    assert (found.mem_total_kib, found.mem_available_kib) == (1024.0, 512.0)
    assert found.ports == {
        "mlx5_0/1": {
            "state": "4",
            "rate_gbps": "400",
            "layer": "InfiniBand",
            "in_words": "1000",
            "out_words": "2000",
            "symbol_error": "0",
            "link_error_recovery": "1",
            "link_downed": "255",
            "rcv_errors": "14",
            "xmit_discards": "3",
            "xmit_wait": "77",
        }
    }
    assert found.links["eno0"]["speed_mbps"] == "25000"
    assert (found.smi, found.gpus) == (None, {})


def test_each_look_reads_anew(tmp_path, start):
    root = plant(tmp_path / "root")
    look = start(root)
    before = look()
    write(root, "proc/uptime", "1005.50 8000.00")
    write(root, "sys/class/infiniband/mlx5_0/ports/1/counters/port_rcv_data", "2250")
    rates = values(before, look(), 15).ports["mlx5_0/1"]
    assert rates == {"in_bytes_per_s": 1000.0, "out_bytes_per_s": 0.0}


def test_a_file_that_is_missing_is_unknown_and_all_else_is_there(tmp_path, start):
    root = plant(tmp_path / "root")
    (root / "sys/class/infiniband/mlx5_0/ports/1/counters/port_rcv_data").unlink()
    (root / "proc/loadavg").unlink()
    found = start(root)()
    assert found.load is None
    assert found.ports["mlx5_0/1"]["in_words"] == "?"
    assert found.ports["mlx5_0/1"]["out_words"] == "2000"


def test_an_empty_machine_answers(tmp_path, start):
    write(tmp_path / "root", "proc/uptime", "7.00 7.00")
    found = start(tmp_path / "root")()
    assert (found.load, found.ports, found.links) == (None, {}, {})


def test_interfaces_are_the_real_ones_and_in_a_container_all_of_ethernet(tmp_path, start):
    root = plant(tmp_path / "root", interfaces=0)
    plant_interface(root, "eth0", is_real=False)
    plant_interface(root, "lo", kind="772", is_real=False)
    plant_interface(root, "ib0", kind="32", is_real=False)
    look = start(root)
    assert list(look().links) == ["eth0"]
    plant_interface(root, "eno1")
    assert list(look().links) == ["eno1"]


def test_gpus_come_from_one_nvidia_smi_that_runs_all_the_time(tmp_path, start):
    second = GPU_LINE.replace("0, 612", "1, 598", 1)
    smi = f'while :; do printf "%s\\n" "{GPU_LINE}" "{second}"; sleep 0.05; done'
    look = start(plant(tmp_path / "root"), smi)
    wait_for(lambda: len(look().gpus) == 2)
    pid = (tmp_path / "pid").read_text()
    for _ in range(50):
        found = look()
        assert {i: fields["power.draw"] for i, fields in found.gpus.items()} == {
            0: "612.04",
            1: "598.04",
        }
        assert found.gpus_at_s == 1000.5
    assert (tmp_path / "pid").read_text() == pid


def test_half_an_answer_is_not_taken_for_a_lost_gpu(tmp_path, start):
    second = GPU_LINE.replace("0, 612", "1, 598", 1)
    smi = f'while :; do echo "{GPU_LINE}"; sleep 0.1; echo "{second}"; sleep 0.01; done'
    look = start(plant(tmp_path / "root"), smi)
    wait_for(lambda: len(look().gpus) == 2)
    assert {len(look().gpus) for _ in range(100)} == {2}


def test_what_nvidia_smi_says_instead_of_numbers_is_passed_on(tmp_path, start):
    look = start(plant(tmp_path / "root"), 'echo "Field \\"x\\" is not a valid field to query."')
    wait_for(lambda: look().odd == 'Field "x" is not a valid field to query.')
    wait_for(lambda: look().smi in ("Z", "?"))


def test_what_it_printed_once_is_forgotten_after_a_whole_answer(tmp_path, start):
    smi = f'echo "Unable to reach GPU 1"; while :; do echo "{GPU_LINE}"; sleep 0.2; done'
    look = start(plant(tmp_path / "root"), smi)
    wait_for(lambda: look().odd == "Unable to reach GPU 1")
    wait_for(lambda: look().odd == "")
    assert look().gpus


def test_a_hanging_nvidia_smi_holds_up_no_look(tmp_path, start):
    look = start(plant(tmp_path / "root"), "exec sleep 60")
    began = time.monotonic()
    for _ in range(20):
        assert look().gpus == {}
    assert time.monotonic() - began < 10
    wait_for(lambda: look().smi == "S")


def test_nvidia_smi_ends_with_the_connection(tmp_path, start):
    look = start(plant(tmp_path / "root"), "exec sleep 60")
    wait_for(lambda: look().smi == "S")
    pid = (tmp_path / "pid").read_text().strip()
    look.probe.stdin.close()
    assert look.probe.wait(10) == 0
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
