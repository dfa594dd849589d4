"""Checks of a node itself: disks, memory, kernel, processors, limits and processes."""

from soractl.health.check import (
    Check,
    Level,
    Seen,
    at_least,
    at_most,
    at_most_an_hour,
    equals,
    has,
    near_most,
    no_message,
    number,
    same,
)

WARNING = Level.WARNING
GIB_IN_KIB = 2**20
CLOCKSOURCES = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")

MEMORY = "replace the memory module that `edac-util` or the BMC's log names"
MAKE_ROOM = "make room: old checkpoints go with `soractl ckpt prune`"


def _available(seen: Seen) -> str:
    share = number(seen.value) / number(seen.also("MemTotal"))
    return "" if share >= 0.05 else f"{share:.1%} of it, at least 5%"


def _swap(seen: Seen) -> str:
    used_kib = number(seen.also("SwapTotal")) - number(seen.value)
    return "" if used_kib <= GIB_IN_KIB else f"{used_kib / GIB_IN_KIB:.1f} GiB in use, at most 1"


def _unused_pages(seen: Seen) -> str:
    kib = number(seen.value) * number(seen.also("Hugepagesize"))
    share = kib / number(seen.also("MemTotal"))
    return "" if share <= 0.1 else f"{share:.0%} of memory reserved and unused, at most 10%"


def _load(seen: Seen) -> str:
    cores = number(seen.facts.one("cpu", "count") or "?")
    return "" if number(seen.value) <= 4 * cores else f"{seen.value} on {cores:.0f} processors"


def _members(seen: Seen) -> str:
    return f"{seen.value}: a disk is missing" if "_" in seen.value else ""


def _files(seen: Seen) -> str:
    """Open files of the whole node: used, free, limit."""
    fields = seen.value.split()
    used, limit = number(fields[0]), number(fields[-1])
    return "" if used <= limit * 0.8 else f"{used:.0f} of {limit:.0f}"


def _online(seen: Seen) -> str:
    present = seen.also("present")
    return "" if seen.value == present else f"{seen.value} of {present}"


def _locked_memory(seen: Seen) -> str:
    return "" if seen.value == "unlimited" else f"{seen.value} bytes, expected unlimited"


def _same_limit(name: str, field: str, setting: str) -> Check:
    return Check(
        id=f"limits.same_{name}", of="limits", field=field, title=field, rule=same,
        source="fleet", level=WARNING,
        remedy=f"`{setting}` in /etc/security/limits.conf, as on the other nodes",
    )  # fmt: skip


def _message(name: str, pattern: str, remedy: str, level: Level = Level.BAD) -> Check:
    return Check(
        id=name, of="kernel", field="messages", title="the kernel says",
        rule=no_message(pattern), level=level, remedy=remedy,
    )  # fmt: skip


CHECKS = (
    Check(
        id="disk.space", of="disk", field="space", title="full", rule=at_most(98),
        remedy=MAKE_ROOM,
    ),
    Check(
        id="disk.space_near", of="disk", field="space", title="full", rule=at_most(90),
        level=WARNING, remedy=MAKE_ROOM,
    ),
    Check(
        id="disk.inodes", of="disk", field="inodes", title="inodes", rule=at_most(95),
        remedy="too many small files: remove or pack them",
        when=lambda seen: "" if seen.value == "-" else "yes",
    ),
    Check(
        id="disk.read_only", of="mount", field="access", title="mounted", rule=equals("rw"),
        remedy="an error made the kernel do so: `dmesg`, fsck, or a new disk",
    ),
    Check(
        id="disk.share", of="share", field="answers", title="answers within 2 s",
        rule=equals("yes"), remedy="stale: `umount -l` and `mount`; look at the file server",
    ),
    Check(
        id="disk.share_source", of="share", field="source", title="mounted from", rule=same,
        source="fleet", by_name=True, remedy="mount the same share as the other nodes",
    ),
    Check(
        id="disk.nvme", of="nvme", field="state", title="state", rule=equals("live"),
        remedy="restart the node; else replace the disk",
    ),
    Check(
        id="disk.raid", of="raid", field="members", title="members", rule=_members,
        remedy="`mdadm --detail` names the disk; replace it",
    ),
    _message("disk.errors", r"I/O error|EXT4-fs error|Remounting filesystem",
             "look at the disk with `smartctl -a`; replace it"),
    Check(
        id="memory.total", of="memory", field="MemTotal", title="kB of memory",
        rule=near_most(2), source="fleet", remedy="a module is missing or off: look at the BMC",
    ),
    Check(
        id="memory.available", of="memory", field="MemAvailable", title="memory left",
        rule=_available, level=WARNING, remedy="see who holds it: `ps --sort=-rss aux | head`",
    ),
    Check(
        id="memory.swap", of="memory", field="SwapFree", title="swap", rule=_swap, level=WARNING,
        remedy="memory was too small once: `swapoff -a && swapon -a` when it is free again",
    ),
    Check(
        id="memory.hugepages", of="memory", field="HugePages_Free", title="huge pages",
        rule=_unused_pages, level=WARNING,
        remedy="`sysctl vm.nr_hugepages=0`, unless somebody needs them",
    ),
    Check(
        id="memory.corrupted", of="memory", field="HardwareCorrupted", title="kB given up",
        rule=at_most(0), remedy=MEMORY,
    ),
    Check(
        id="memory.uncorrectable", of="edac", field="ue_count", title="uncorrectable errors",
        rule=at_most(0), remedy=MEMORY,
    ),
    Check(
        id="memory.correctable", of="edac", field="ce_count", title="corrected errors",
        rule=at_most_an_hour(10), level=WARNING, remedy=MEMORY,
    ),
    _message("memory.oom", r"Out of memory|oom-kill",
             "the kernel killed a program: fewer loader workers, or less in /dev/shm", WARNING),
    _message("memory.machine_check", r"Hardware Error|mce: .*Machine [Cc]heck", MEMORY),
    Check(
        id="process.zombies", of="system", field="zombies", title="zombies", rule=at_most(50),
        level=WARNING, remedy="their parents do not wait for them: `ps -eo ppid,stat | grep Z`",
    ),
    Check(
        id="process.stuck", of="system", field="stuck", title="processes in state D",
        rule=at_most(4), level=WARNING,
        remedy="they wait for a disk, a share or the driver: `cat /proc/PID/stack`",
    ),
    _message("process.hung", r"blocked for more than \d+ seconds",
             "a disk, a share or the driver does not answer; restart the node if it stays so"),
    Check(
        id="process.load", of="system", field="load", title="load", rule=_load, level=WARNING,
        remedy="`top`: something else computes there",
    ),
    Check(
        id="limits.files", of="limits", field="open files, hard", title="open files",
        rule=at_least(65536), level=WARNING, remedy="`nofile` in /etc/security/limits.conf",
    ),
    Check(
        id="limits.locked_memory", of="limits", field="locked memory", title="locked memory",
        rule=_locked_memory, when=has("ib"),
        remedy="`memlock unlimited` in /etc/security/limits.conf: InfiniBand registers memory",
    ),
    Check(
        id="limits.processes", of="limits", field="processes", title="processes",
        rule=at_least(4096), level=WARNING, remedy="`nproc` in /etc/security/limits.conf",
    ),
    _same_limit("files", "open files", "nofile"),
    _same_limit("locked_memory", "locked memory", "memlock"),
    _same_limit("processes", "processes", "nproc"),
    Check(
        id="limits.node_files", of="system", field="fs/file-nr", title="open files of the node",
        rule=_files, level=WARNING, remedy="`sysctl fs.file-max`, or end who holds them",
    ),
    Check(
        id="kernel.version", of="system", field="kernel/osrelease", title="kernel", rule=same,
        source="fleet", level=WARNING, remedy="restart the odd ones with the others' kernel",
    ),
    Check(
        id="kernel.swappiness", of="system", field="vm/swappiness", title="vm.swappiness",
        rule=at_most(60), level=WARNING, remedy="`sysctl vm.swappiness=10`",
    ),
    Check(
        id="kernel.map_count", of="system", field="vm/max_map_count", title="vm.max_map_count",
        rule=at_least(65530), level=WARNING, remedy="`sysctl vm.max_map_count=262144`",
    ),
    Check(
        id="kernel.pid_max", of="system", field="kernel/pid_max", title="kernel.pid_max",
        rule=at_least(32768), level=WARNING, remedy="`sysctl kernel.pid_max=4194304`",
    ),
    Check(
        id="kernel.numa_balancing", of="system", field="kernel/numa_balancing", level=WARNING,
        title="kernel.numa_balancing", rule=equals("0"), when=has("gpu"),
        remedy="`sysctl kernel.numa_balancing=0`: it moves pages under the loaders' hands",
    ),
    Check(
        id="kernel.zone_reclaim", of="system", field="vm/zone_reclaim_mode", level=WARNING,
        title="vm.zone_reclaim_mode", rule=equals("0"), remedy="`sysctl vm.zone_reclaim_mode=0`",
    ),
    Check(
        id="kernel.overcommit", of="system", field="vm/overcommit_memory", level=WARNING,
        title="vm.overcommit_memory", rule=equals("0", "1"),
        remedy="`sysctl vm.overcommit_memory=0`: CUDA reserves large ranges of addresses",
    ),
    Check(
        id="cpu.count", of="cpu", field="count", title="processors", rule=same, source="fleet",
        remedy="a processor is off: look at the BMC and at the BIOS settings",
    ),
    Check(
        id="cpu.online", of="cpu", field="online", title="online", rule=_online,
        remedy="`echo 1 > /sys/devices/system/cpu/cpuN/online`",
    ),
    Check(
        id="cpu.governor", of="governor", field="scaling_governor", title="governor",
        rule=equals("performance"), level=WARNING,
        remedy="`cpupower frequency-set -g performance`",
    ),
    Check(
        id="cpu.clocksource", of="cpu", field="current_clocksource", title="clock source",
        rule=equals(*CLOCKSOURCES), level=WARNING,
        remedy="the kernel gave the TSC up: `dmesg | grep -i tsc`; another source is slow",
    ),
    _message("cpu.throttled", r"clock throttled", "look at the fans and the inlet air", WARNING),
    Check(
        id="time.daemon", of="system", field="daemons", title="time daemon",
        rule=lambda seen: "none runs" if seen.value == "none" else "", level=WARNING,
        remedy="install chrony: `soractl clock` prints its settings",
    ),
)  # fmt: skip
