"""A node's /proc, /sys and programs in a folder, and the answer of the probe to them.

GPUs: the recorded `nvidia-smi -q` of two H200, twice. InfiniBand: names, rates and counters of a
public H100 node (leptonai/gpud, testdata of its infiniband component). The rest is made.
"""

import os
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path

from soractl.remote.scripts import script

REPOSITORY = Path(__file__).parents[3]
SMI_Q = REPOSITORY / "tests/recorded/nvidia-smi/q-h200-busy.txt"

IB_COUNTERS = {
    "symbol_error": 0,
    "link_error_recovery": 0,
    "link_downed": 0,
    "port_rcv_errors": 14,
    "port_xmit_discards": 0,
    "local_link_integrity_errors": 0,
    "excessive_buffer_overrun_errors": 15,
}
PCI_LINK = {
    "current_link_width": 16,
    "max_link_width": 16,
    "current_link_speed": "32.0 GT/s PCIe",
    "max_link_speed": "32.0 GT/s PCIe",
}
ETHERNET = {
    "device/vendor": "0x15b3",
    "type": 1,
    "operstate": "up",
    "mtu": 9000,
    "speed": 100000,
    "duplex": "full",
    "carrier_changes": 2,
    "statistics/rx_errors": 0,
    "statistics/tx_errors": 0,
    "statistics/rx_crc_errors": 0,
    "statistics/rx_missed_errors": 0,
}
MEMINFO = {
    "MemTotal": "2113000000 kB",
    "MemFree": "900000000 kB",
    "MemAvailable": "1900000000 kB",
    "SwapTotal": "8388608 kB",
    "SwapFree": "8388608 kB",
    "HardwareCorrupted": "0 kB",
    "HugePages_Total": "0",
    "HugePages_Free": "0",
    "Hugepagesize": "2048 kB",
}
LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max processes             8254000              8254000              processes
Max open files            1024                 1048576              files
Max locked memory         unlimited            unlimited            bytes
"""
MOUNTS = """\
/dev/nvme0n1p2 / ext4 rw,relatime,errors=remount-ro 0 0
tmpfs /dev/shm tmpfs rw,nosuid,nodev 0 0
files:/export/home /tmp nfs4 rw,relatime,vers=4.2 0 0
"""
MDSTAT = """\
Personalities : [raid1]
md0 : active raid1 nvme1n1p1[1] nvme0n1p1[0]
      1046528 blocks super 1.2 [2/2] [UU]

unused devices: <none>
"""
USAGE = """\
Filesystem              Use% IUse% Mounted on
/dev/nvme0n1p2           34%    4% /
/dev/loop3              100%  100% /snap/core/1
tmpfs                     0%    1% /dev/shm
"""
SPACE = """\
Filesystem     1024-blocks      Used Available Capacity Mounted on
/dev/nvme0n1p2   900000000 300000000 600000000      34% /
/dev/loop3           65536     65536         0     100% /snap/core/1
tmpfs           1000000000         0 1000000000       0% /dev/shm
"""
INODES = """\
Filesystem       Inodes   IUsed    IFree IUse% Mounted on
/dev/nvme0n1p2 58000000 2000000 56000000    4% /
tmpfs          26000000       1 26000000    1% /dev/shm
"""
DMESG = "[   12.345678] mlx5_core 0000:18:00.0: firmware version: 28.41.1000\n"


def files():
    """Text by path of everything that the probe reads."""
    found = {
        "proc/uptime": "864000.12 100.0",
        "proc/loadavg": "1.50 1.00 1.00 1/3000 4242",
        "proc/meminfo": "".join(f"{name}:  {value}\n" for name, value in MEMINFO.items()),
        "proc/self/limits": LIMITS,
        "proc/mounts": MOUNTS,
        "proc/mdstat": MDSTAT,
        "proc/1/stat": "1 (systemd) S 0 1 1",
        "proc/77/stat": "77 (chronyd) S 1 77 77",
        "proc/78/stat": "78 (nv-fabricmanage) S 1 78 78",
        "proc/79/stat": "79 (a (sly) name) R 1 79 79",
        "sys/devices/system/edac/mc/mc0/ue_count": 0,
        "sys/devices/system/edac/mc/mc0/ce_count": 3,
        "sys/devices/system/cpu/present": "0-1",
        "sys/devices/system/cpu/online": "0-1",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
        "sys/class/nvme/nvme0/state": "live",
        "sys/module/nvidia_peermem/refcnt": 0,
        "sys/module/mlx5_core/version": "24.10-1.1.4",
    }
    parameters = {
        "kernel/osrelease": "6.8.0-60-generic",
        "kernel/pid_max": 4194304,
        "kernel/numa_balancing": 0,
        "vm/swappiness": 10,
        "vm/max_map_count": 262144,
        "vm/overcommit_memory": 0,
        "vm/zone_reclaim_mode": 0,
        "fs/file-nr": "30000\t0\t9223372036854775807",
    }
    found |= {f"proc/sys/{name}": value for name, value in parameters.items()}
    for cpu in (0, 1):
        folder = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        found[f"{folder}/scaling_governor"] = "performance"
    for number in range(4):
        found |= pci(f"0000:00:0{number + 6}.0", "0x030200")
    found |= pci("0000:00:0f.0", "0x068000")
    for name in ("mlx5_0", "mlx5_4"):
        found |= infiniband(name, "InfiniBand", "400 Gb/sec (4X NDR)", "MT4129")
    found |= infiniband("mlx5_bond_0", "Ethernet", "200 Gb/sec (2X NDR)", "MT41692")
    found |= {f"sys/class/net/eno1/{name}": value for name, value in ETHERNET.items()}
    return {path: str(text) for path, text in found.items()}


def pci(bus, kind):
    folder = f"sys/bus/pci/devices/{bus}"
    return {f"{folder}/vendor": "0x10de", f"{folder}/class": kind}


def infiniband(name, layer, rate, device):
    folder = f"sys/class/infiniband/{name}"
    port = {"state": "4: ACTIVE", "phys_state": "5: LinkUp", "rate": rate, "link_layer": layer}
    port |= {f"counters/{counter}": count for counter, count in IB_COUNTERS.items()}
    found = {f"{folder}/ports/1/{file}": value for file, value in port.items()}
    found |= {f"{folder}/device/{file}": value for file, value in PCI_LINK.items()}
    return {**found, f"{folder}/fw_ver": "28.41.1000", f"{folder}/hca_type": device}


def programs():
    """What the node's programs print."""
    text = SMI_Q.read_text()
    begin = text.index("GPU 00000000:00:06.0")
    again = text[begin:].replace("00:06.0", "00:08.0").replace("00:07.0", "00:09.0")
    links = "".join(f"\t Link {link}: 26.562 GB/s\n" for link in range(18))
    kinds = ("Replay", "Recovery", "CRC")
    counts = "".join(f"\t Link {n}: {kind} Errors: 0\n" for n in range(18) for kind in kinds)
    gpus = [f"GPU {n}: NVIDIA H200 (UUID: GPU-a{n})\n" for n in range(4)]
    return {
        "nvidia-smi -q": text + again,
        "nvidia-smi nvlink -s": "".join(gpu + links for gpu in gpus),
        "nvidia-smi nvlink -e": "".join(gpu + counts for gpu in gpus),
        "dmesg": DMESG,
        "df -l --output=source,pcent,ipcent,target": USAGE,
        "df -P -k -l": SPACE,
        "df -P -i -l": INODES,
    }


def plant(root, changes=()):
    """Write the node; `changes` are other texts of files, or None for one that is not there."""
    for path, text in {**files(), **dict(changes)}.items():
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{text}\n")
    folder = root / "bin"
    folder.mkdir()
    for name in ("nvidia-smi", "dmesg", "df"):
        cases = []
        for number, (command, text) in enumerate(programs().items()):
            program, _, words = command.partition(" ")
            if program == name:
                printed = folder / f"printed-{number}"
                printed.write_text(text)
                cases.append(f"{shlex.quote(words)}) exec cat {shlex.quote(str(printed))} ;;")
        lines = ["#!/bin/sh", 'case "$*" in', *cases, "*) exit 2 ;;", "esac"]
        (folder / name).write_text("\n".join(lines) + "\n")
        (folder / name).chmod(0o755)
    return root


@contextmanager
def messages(root, read, printed):
    """The kernel's messages as /dev/kmsg has them, without an end, and as dmesg prints them."""
    (root / "bin/dmesg").write_text(f"#!/bin/sh\ncat << 'END'\n{printed}\nEND\n")
    (root / "dev").mkdir()
    os.mkfifo(root / "dev/kmsg")
    with (root / "dev/kmsg").open("r+b", buffering=0) as end:
        end.write(read.encode())
        yield


def probe(root, *runner, limit_s="5"):
    """The answer of the probe on a planted node; `runner` is a program that runs its shell."""
    return subprocess.run(
        [*runner, "sh", "-s", "--", limit_s, root],
        input=script("soractl.health", "probe.sh"),
        env={"PATH": f"{root}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
