"""Every check with a good, a bad and an unreadable field of a node as the probe prints it."""

import dataclasses

import pytest

from soractl.health.check import Level, judge, majority
from soractl.health.examine import CHECKS
from soractl.health.facts import parse
from tests.soractl.health import planted

GOOD = {"gpu.processes": "0", "gpu.memory_used": "616 MiB"}  # the recorded GPUs are at work
XID = "[863990.1] NVRM: Xid (PCI:0000:00:06): {}, pid=1, text"

# A value that is not good, by check; `other` for any that differs from the rest of the fleet.
OTHER = "other"
BAD = {
    "gpu.driver": "the driver is not loaded",
    "gpu.answers": "[GPU requires reset]",
    "gpu.on_bus": "3",
    "gpu.count": "3",
    "gpu.memory": "81559 MiB",
    "gpu.expected_memory": "81559 MiB",
    "gpu.power_limit": "500.00 W",
    "gpu.expected_power_limit": "500.00 W",
    "gpu.power": "310.00 W",
    "gpu.ecc_mode": "Disabled",
    "gpu.ecc_pending": "Disabled",
    "gpu.sram_uncorrectable": "1",
    "gpu.sram_parity": "1",
    "gpu.dram_uncorrectable": "1",
    "gpu.dram_correctable": "1001",
    "gpu.sram_threshold": "Yes",
    "gpu.channel_repair": "Yes",
    "gpu.tpc_repair": "Yes",
    "gpu.unrepairable": "Yes",
    "gpu.remap_pending": "Yes",
    "gpu.remap_failed": "Yes",
    "gpu.remap_rows": "9",
    "gpu.remap_spare": "1 bank(s)",
    "gpu.recovery": "Reset",
    "gpu.hw_slowdown": "Active",
    "gpu.hw_thermal": "Active",
    "gpu.power_brake": "Active",
    "gpu.sw_thermal": "Active",
    "gpu.memory_temperature": "96 C",
    "gpu.pcie_width": "8x",
    "gpu.pcie_generation": "4",
    "gpu.expected_pcie": "4",
    "gpu.pcie_replays": "1001",
    "gpu.persistence": "Disabled",
    "gpu.mig": "Enabled",
    "gpu.compute_mode": "Prohibited",
    "gpu.clock_setting": "1200 MHz",
    "gpu.fabric": "In Progress",
    "gpu.fabric_status": "Failure",
    "gpu.fabric_manager": "no",
    "gpu.nvlink_down": "1",
    "gpu.nvlinks": "17",
    "gpu.expected_nvlinks": "17",
    "gpu.nvlink_errors": "1",
    "gpu.processes": "1",
    "gpu.memory_used": "1025 MiB",
    "gpu.xid": XID.format(79),
    "gpu.xid_program": XID.format(94),
    "gpu.peermem": "no",
    "ib.state": "1: DOWN",
    "ib.physical": "2: Polling",
    "ib.rate": "200 Gb/sec (4X HDR)",
    "ib.fleet_rate": "200 Gb/sec (4X HDR)",
    "ib.expected_rate": "200 Gb/sec (4X HDR)",
    "ib.pcie_width": "8",
    "ib.pcie_speed": "16.0 GT/s PCIe",
    "ib.symbol_errors": "65535",
    "ib.receive_errors": "2401",
    "ib.recoveries": "25",
    "ib.discards": "24001",
    "ib.integrity": "241",
    "ib.overruns": "2401",
    "ib.downs": "255",
    "net.flaps": "[863990.1] mlx5_core 0000:18:00.0 eno1: Link down",
    "eth.link": "down",
    "eth.speed": "10000",
    "eth.mtu": "1500",
    "eth.duplex": "half",
    "eth.receive_errors": "2401",
    "eth.send_errors": "2401",
    "eth.checksums": "241",
    "eth.missed": "240001",
    "eth.flaps": "123",
    "disk.space": "99%",
    "disk.space_near": "91%",
    "disk.inodes": "96%",
    "disk.read_only": "ro",
    "disk.share": "no",
    "disk.nvme": "dead",
    "disk.raid": "[U_]",
    "disk.errors": "[863990.1] blk_update_request: I/O error, dev nvme0n1, sector 8",
    "memory.total": "2000000000",
    "memory.available": "50000000",
    "memory.swap": "4194304",
    "memory.hugepages": "200000",
    "memory.corrupted": "4",
    "memory.uncorrectable": "1",
    "memory.correctable": "2401",
    "memory.oom": "[863990.1] Out of memory: Killed process 4242 (python)",
    "memory.machine_check": "[863990.1] mce: [Hardware Error]: Machine check events logged",
    "process.zombies": "51",
    "process.stuck": "5 python python python python python",
    "process.hung": "[863990.1] INFO: task python:1 blocked for more than 120 seconds.",
    "process.load": "9.00",
    "limits.files": "4096",
    "limits.locked_memory": "8388608",
    "limits.processes": "1024",
    "limits.node_files": "900\t0\t1000",
    "kernel.swappiness": "100",
    "kernel.map_count": "1000",
    "kernel.pid_max": "1000",
    "kernel.numa_balancing": "1",
    "kernel.zone_reclaim": "1",
    "kernel.overcommit": "2",
    "cpu.online": "0",
    "cpu.governor": "performance powersave",
    "cpu.clocksource": "hpet",
    "cpu.throttled": "[863990.1] CPU3: Package temperature above threshold, cpu clock throttled",
    "time.daemon": "none",
}
# Fields beside the check's own whose value decides.
BESIDE = {
    "gpu.temperature": ("Temperature/GPU T.Limit Temp", "0 C", "?"),
    "gpu.temperature_near": ("Temperature/GPU T.Limit Temp", "5 C", "?"),
}
CHECK = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)


def changed(node, check, value, name=None):
    """The node with another value of the check's field, in the first thing that it judges."""
    first = item(node, check)
    fields = {**node.of(check.of)[first], name or check.field: value}
    things = {**node.of(check.of), first: fields}
    return dataclasses.replace(node, items={**node.items, check.of: things})


def item(node, check):
    return next(finding.item for finding in judge(check, node, majority(check, [node])))


def levels(check, node, *others):
    """Verdicts on the first thing of a node; the fleet are two others and it."""
    most = majority(check, [node, *others])
    return [f.level for f in judge(check, node, most) if f.item == item(others[0], check)]


@CHECK
def test_a_good_node_is_good(check, node):
    if check.id in GOOD:
        node = changed(node, check, GOOD[check.id])
    assert levels(check, node, node, node) == [Level.GOOD]


@CHECK
def test_a_bad_node_is_not(check, node):
    name, bad, _ = BESIDE.get(check.id, (check.field, BAD.get(check.id, OTHER), ""))
    assert levels(check, changed(node, check, bad, name), node, node) == [check.level]


@CHECK
def test_what_cannot_be_read_is_unknown(check, node):
    name, _, unreadable = BESIDE.get(check.id, (check.field, "", "?"))
    if check.id == "gpu.fabric_status":  # judged where the state is known
        unreadable = "N/A"
    assert levels(check, changed(node, check, unreadable, name), node, node) == [Level.UNKNOWN]


@CHECK
def test_only_a_check_of_the_fleet_looks_at_what_most_have(check, node):
    if check.source != "fleet":
        fleet = majority(check, [node])
        assert list(judge(check, node, {})) == list(judge(check, node, fleet))


def test_the_limit_of_the_memory_is_the_nodes_own_before_that_of_its_type(node):
    [check] = [check for check in CHECKS if check.id == "gpu.memory_temperature"]
    hot = changed(node, check, "90 C")
    own = changed(hot, check, "85 C", "Temperature/Memory Max Operating Temp")
    assert (levels(check, hot, node), levels(check, own, node)) == ([Level.GOOD], [Level.WARNING])
    unlisted = changed(hot, check, "NVIDIA B200", "Product Name")
    assert item(node, check) not in {finding.item for finding in judge(check, unlisted, {})}


def verdicts(node, others):
    fleet = [*others, node]
    return [
        (finding.check.id, finding.item, finding.level)
        for check in CHECKS
        for finding in judge(check, node, majority(check, fleet))
    ]


def test_every_field_that_is_asked_for_can_turn_a_verdict(node):
    """Of `nvidia-smi -q`, which prints far more, the fields that some check names."""
    named = {(check.of, check.field) for check in CHECKS}
    good, idle = verdicts(node, [node, node]), []
    for kind, things in node.items.items():
        for item, fields in things.items():
            for field in fields:
                if kind in ("gpu", "nvidia") and (kind, field) not in named:
                    continue
                for value in ("?", "99999999999", "0", OTHER):
                    changes = {**things, item: {**fields, field: value}}
                    odd = dataclasses.replace(node, items={**node.items, kind: changes})
                    if verdicts(odd, [node, node]) != good:
                        break
                else:
                    idle.append((kind, item, field))
    # A port that speaks Ethernet is judged by its interface.
    assert {(kind, item) for kind, item, _ in idle} == {("ib", "mlx5_bond_0/1")}


@pytest.mark.parametrize("check", [c for c in CHECKS if c.of == "kernel"], ids=lambda c: c.id)
def test_the_probe_lets_every_message_pass_that_a_check_looks_for(check, tmp_path):
    root = planted.plant(tmp_path)
    with planted.messages(root, f"4,2,863990100000,-;{BAD[check.id]}\n", BAD[check.id]):
        node = parse(planted.probe(root))
    assert [finding.level for finding in judge(check, node, {})] == [check.level]


def test_there_are_at_least_fifty_checks_with_names_of_their_own():
    assert len(CHECKS) >= 50
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert [check.id for check in CHECKS if not check.remedy or check.id.count(".") != 1] == []


def test_a_node_without_gpus_and_infiniband_is_not_judged_by_them(tmp_path):
    changes = {path: None for path in planted.files() if "infiniband" in path or "pci" in path}
    root = planted.plant(tmp_path, changes)
    (root / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 127\n")
    node = parse(planted.probe(root))
    kinds = {check.id.partition(".")[0] for check in CHECKS if list(judge(check, node, {}))}
    assert kinds == {"net", "eth", "disk", "memory", "process", "limits", "kernel", "cpu", "time"}
