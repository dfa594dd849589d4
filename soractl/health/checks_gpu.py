"""Checks of GPUs, by `nvidia-smi -q`, `nvidia-smi nvlink` and the kernel's messages.

Xids are classed by what NVIDIA's catalogue asks for (`cluster/xids`).
"""

from soractl.cluster.xids import XIDS, Action, Subject
from soractl.health.check import (
    NO_JOB,
    UNREADABLE,
    Check,
    Level,
    Rule,
    Seen,
    Unreadable,
    at_most,
    equals,
    equals_field,
    field_is,
    has,
    no_message,
    number,
    same,
)

WARNING = Level.WARNING
IDLE_MEMORY_MIB = 1024  # an idle GPU holds some hundred MiB
BUSY_PCT = 90
ODD_POWER_SHARE, ODD_POWER_W = 0.7, 60  # below this share of its siblings and so many watts

RESET = "stop the programs on it, `nvidia-smi --gpu-reset -i N`, else restart the node"
REPLACE = "take the node out and have the GPU replaced"
COOL = "look at the fans, the inlet air and the dust of this node"

# What a type of GPU has by its maker.
# H100: 80 GB as nvidia-smi prints them; 700 W and 18 links of 50 GB/s by NVIDIA's data sheet; PCIe
#   5: MLPerf Training v3.1, systems of Dell (XE9680).
# H200: memory and limit as nvidia-smi of two of them printed (tests/recorded); "PCIe Gen5 x16",
#   "18x 4th Gen NVLink, 900GB/s" and "TGP 700W": MLPerf Inference v4.1,
#   closed/NVIDIA/systems/H200-SXM-141GBx8_TRT_MaxQ.json.
# B200: 1000 W, PCIe 5, 18 links: MLPerf Training v6.0, systems of Nebius; its MiB are not known.
# Degrees of the memory, where the driver prints only margins: "Memory Max Operating Temp: 95 C" by
#   driver 525.105.17 of an H800, an H100 with fewer links (github.com/liguodongiot/llm-action,
#   docs/llm-base/nvidia-smi.md). H200 has none of its own and takes that one; B200 has none.
EXPECTED = {
    "NVIDIA H100 80GB HBM3": {
        "memory": 81559,
        "power": 700,
        "pcie": 5,
        "links": 18,
        "memory_c": 95,
    },
    "NVIDIA H200": {"memory": 143771, "power": 700, "pcie": 5, "links": 18, "memory_c": 95},
    "NVIDIA B200": {"power": 1000, "pcie": 5, "links": 18},
}


def expected(fact: str) -> Rule:
    """At least what this type of GPU has by its maker."""

    def rule(seen: Seen) -> str:
        wanted = EXPECTED[seen.fields["Product Name"]][fact]
        if number(seen.value) >= wanted:
            return ""
        return f"{seen.value}, {seen.fields['Product Name']} has {wanted}"

    return rule


def is_listed(fact: str) -> Rule:
    """A condition: the table has this fact of this type of GPU."""
    return lambda seen: (
        "yes" if fact in EXPECTED.get(seen.fields.get("Product Name", ""), {}) else ""
    )


def _answers(seen: Seen) -> str:
    odd = {value for value in seen.fields.values() if value in ("Unknown Error", "GPU is lost")}
    odd |= {value for value in seen.fields.values() if "requires reset" in value or value == "ERR!"}
    return f"answers {', '.join(sorted(odd))}" if odd else ""


def _all_on_bus(seen: Seen) -> str:
    on_bus = number(seen.facts.one("system", "gpus_on_bus") or "?")
    if number(seen.value) >= on_bus:
        return ""
    return f"{seen.value} of the {on_bus:.0f} on the PCI bus"


def _margin(least: float) -> Rule:
    """Degrees to the limit; older drivers print the limit itself."""

    def rule(seen: Seen) -> str:
        margin = seen.fields.get("Temperature/GPU T.Limit Temp", "N/A")
        if margin == "N/A":
            limit = number(seen.also("Temperature/GPU Slowdown Temp"))
            left = limit - number(seen.value)
        else:
            left = number(margin)
        return "" if left > least else f"{seen.value}, {left:g} C below its limit"

    return rule


_MEMORY_LIMIT = "Temperature/Memory Max Operating Temp"


def _memory_limit(seen: Seen) -> str:
    """The limit that the node itself reports, else that of this type of GPU; '' without one."""
    reported = seen.fields.get(_MEMORY_LIMIT, "N/A")
    if reported not in UNREADABLE:
        return reported
    listed = EXPECTED.get(seen.fields.get("Product Name", ""), {}).get("memory_c")
    return f"{listed} C" if listed else ""


def _memory_heat(seen: Seen) -> str:
    limit = _memory_limit(seen)
    return "" if number(seen.value) <= number(limit) else f"{seen.value}, at most {limit}"


def _generation(seen: Seen) -> str:
    if seen.also("Performance State") != "P0":
        return ""  # it may fall at idle
    return equals_field("PCI/GPU Link Info/PCIe Generation/Max")(seen)


def _with_counter(counter: str) -> Rule:
    """Not active now; the reason says how long it was since the driver loaded."""

    def rule(seen: Seen) -> str:
        if seen.value == "Not Active":
            return ""
        if seen.value != "Active":
            raise Unreadable(f"neither Active nor Not Active: {seen.value}")
        spent = seen.fields.get(f"Clocks Event Reasons Counters/{counter}", "not known")
        return f"active, {spent} in all"

    return rule


def _power(seen: Seen) -> str:
    """Its power beside the other GPUs of the node, all at work."""
    gpus = seen.facts.of("gpu")
    busy = [g for g in gpus.values() if number(g.get("Utilization/GPU", "?")) >= BUSY_PCT]
    if len(gpus) < 4 or len(busy) < len(gpus):
        return ""  # nothing to compare with
    from statistics import median  # loads fractions and decimals: not where no GPU works

    usual = median(number(g.get(seen_power, "?")) for g in gpus.values())
    own = number(seen.value)
    if own >= usual * ODD_POWER_SHARE or usual - own <= ODD_POWER_W:
        return ""
    return f"{seen.value}, its siblings {usual:.0f} W"


seen_power = "GPU Power Readings/Average Power Draw"
_SECTION = "ECC Errors"
_REASONS = "Clocks Event Reasons"


def _xid(of_program: bool) -> str:
    """A pattern of Xids that end one program, or of those after which a GPU must be reset."""
    numbers = [
        str(number)
        for number, xid in XIDS.items()
        if xid.action is not Action.NONE
        and (xid.action is Action.RESTART_PROGRAM or xid.subject is Subject.CASCADE) is of_program
    ]
    return rf"NVRM: Xid \([^)]*\): ({'|'.join(numbers)}),"


def _ecc(name: str, field: str, rule: Rule, title: str, remedy: str = RESET) -> Check:
    return Check(
        id=f"gpu.{name}", of="gpu", field=f"{_SECTION}/{field}", title=title, rule=rule,
        remedy=remedy,
    )  # fmt: skip


CHECKS = (
    Check(
        id="gpu.driver", of="nvidia", field="state", title="nvidia-smi", rule=equals("ok"),
        remedy="look at `nvidia-smi` and `dmesg` there; restart the node if it hangs",
    ),
    Check(
        id="gpu.answers", of="gpu", field="Product Name", title="GPU", rule=_answers, remedy=RESET,
    ),
    Check(
        id="gpu.on_bus", of="nvidia", field="gpus", title="GPUs", rule=_all_on_bus,
        remedy="a GPU fell off: restart the node, and have it looked at if it comes back so",
    ),
    Check(
        id="gpu.count", of="nvidia", field="gpus", title="GPUs", rule=same, source="fleet",
        remedy="restart the node, and have it looked at if a GPU stays away",
    ),
    Check(
        id="gpu.product", of="gpu", field="Product Name", title="type", rule=same, source="fleet",
        remedy="run on nodes of one type: the slowest GPU sets the pace",
    ),
    Check(
        id="gpu.driver_version", of="nvidia", field="Driver Version", title="driver", rule=same,
        source="fleet", level=WARNING, remedy="install the driver that the other nodes have",
    ),
    Check(
        id="gpu.vbios", of="gpu", field="VBIOS Version", title="VBIOS", rule=same, source="fleet",
        level=WARNING, remedy="update the firmware of the odd ones",
    ),
    Check(
        id="gpu.memory", of="gpu", field="FB Memory Usage/Total", title="memory", rule=same,
        source="fleet", remedy=REPLACE,
    ),
    Check(
        id="gpu.expected_memory", of="gpu", field="FB Memory Usage/Total", title="memory",
        rule=expected("memory"), source="expected", when=is_listed("memory"), level=WARNING,
        remedy="look at MIG and at the reserved memory of this GPU",
    ),
    Check(
        id="gpu.power_limit", of="gpu", field="GPU Power Readings/Current Power Limit",
        title="power limit", rule=same, source="fleet",
        remedy="`nvidia-smi -i N -pl WATTS`, as the others have",
    ),
    Check(
        id="gpu.expected_power_limit", of="gpu", field="GPU Power Readings/Current Power Limit",
        title="power limit", rule=expected("power"), source="expected", when=is_listed("power"),
        level=WARNING, remedy="`nvidia-smi -pl WATTS`, unless the rack allows no more",
    ),
    Check(
        id="gpu.power", of="gpu", field=seen_power, title="power", rule=_power, source="siblings",
        level=WARNING, contexts=("periodic",),
        remedy="a GPU that draws less does less: look at its clocks, or at what its rank waits for",
    ),
    Check(
        id="gpu.ecc_mode", of="gpu", field="ECC Mode/Current", title="ECC", rule=equals("Enabled"),
        remedy="`nvidia-smi -i N -e 1`, then reset the GPU",
    ),
    Check(
        id="gpu.ecc_pending", of="gpu", field="ECC Mode/Pending", title="ECC after a restart",
        rule=equals("Enabled"), level=WARNING, remedy="`nvidia-smi -i N -e 1`",
    ),
    _ecc("sram_uncorrectable", "Volatile/SRAM Uncorrectable SEC-DED", at_most(0), "SRAM errors"),
    _ecc("sram_parity", "Volatile/SRAM Uncorrectable Parity", at_most(0), "SRAM parity errors"),
    _ecc("dram_uncorrectable", "Volatile/DRAM Uncorrectable", at_most(0), "memory errors"),
    Check(
        id="gpu.dram_correctable", of="gpu", field=f"{_SECTION}/Volatile/DRAM Correctable",
        title="corrected memory errors", rule=at_most(1000), level=WARNING,
        remedy="watch it: many corrected errors come before uncorrectable ones",
    ),
    _ecc("sram_threshold", "Aggregate/SRAM Threshold Exceeded", equals("No"),
         "too many SRAM errors", REPLACE),
    _ecc("channel_repair", "Channel Repair Pending", equals("No"), "channel repair pending"),
    _ecc("tpc_repair", "TPC Repair Pending", equals("No"), "TPC repair pending"),
    _ecc("unrepairable", "Unrepairable Memory", equals("No"), "unrepairable memory", REPLACE),
    Check(
        id="gpu.remap_pending", of="gpu", field="Remapped Rows/Pending", title="rows to remap",
        rule=equals("No"), remedy=RESET,
    ),
    Check(
        id="gpu.remap_failed", of="gpu", field="Remapped Rows/Remapping Failure Occurred",
        title="row remapping failed", rule=equals("No"), remedy=REPLACE,
    ),
    Check(
        id="gpu.remap_rows", of="gpu", field="Remapped Rows/Uncorrectable Error",
        title="rows remapped after uncorrectable errors", rule=at_most(8), level=WARNING,
        remedy="watch it: a bank has eight spare rows",
    ),
    Check(
        id="gpu.remap_spare", of="gpu",
        field="Remapped Rows/Bank Remap Availability Histogram/None",
        title="banks without spare rows", rule=at_most(0), remedy=REPLACE,
    ),
    Check(
        id="gpu.recovery", of="gpu", field="GPU Recovery Action", title="the driver asks for",
        rule=equals("None"), remedy=RESET,
    ),
    Check(
        id="gpu.hw_slowdown", of="gpu", field=f"{_REASONS}/HW Slowdown", title="hardware slowdown",
        rule=_with_counter("HW Thermal Slowdown"), remedy=COOL,
    ),
    Check(
        id="gpu.hw_thermal", of="gpu", field=f"{_REASONS}/HW Slowdown/HW Thermal Slowdown",
        title="slowed down by heat", rule=_with_counter("HW Thermal Slowdown"), remedy=COOL,
    ),
    Check(
        id="gpu.power_brake", of="gpu", field=f"{_REASONS}/HW Slowdown/HW Power Brake Slowdown",
        title="power brake", rule=_with_counter("HW Power Braking"),
        remedy="look at the power supplies and the limit of the rack",
    ),
    Check(
        id="gpu.sw_thermal", of="gpu", field=f"{_REASONS}/SW Thermal Slowdown", level=WARNING,
        title="slowed down by the driver for heat", rule=_with_counter("SW Thermal Slowdown"),
        remedy=COOL,
    ),
    Check(
        id="gpu.temperature", of="gpu", field="Temperature/GPU Current Temp", title="temperature",
        rule=_margin(0), remedy=COOL,
    ),
    Check(
        id="gpu.temperature_near", of="gpu", field="Temperature/GPU Current Temp", level=WARNING,
        title="temperature", rule=_margin(5), remedy=COOL,
    ),
    Check(
        id="gpu.memory_temperature", of="gpu", field="Temperature/Memory Current Temp",
        title="memory's temperature", rule=_memory_heat, when=_memory_limit, level=WARNING,
        remedy=COOL,
    ),
    Check(
        id="gpu.pcie_width", of="gpu", field="PCI/GPU Link Info/Link Width/Current",
        title="PCIe width", rule=equals_field("PCI/GPU Link Info/Link Width/Max"),
        remedy="restart the node; else the slot or the riser is bad",
    ),
    Check(
        id="gpu.pcie_generation", of="gpu",
        field="PCI/GPU Link Info/PCIe Generation/Current", title="PCIe generation",
        rule=_generation, remedy="restart the node; else the slot or the riser is bad",
    ),
    Check(
        id="gpu.expected_pcie", of="gpu", field="PCI/GPU Link Info/PCIe Generation/Max",
        title="PCIe generation", rule=expected("pcie"), source="expected", when=is_listed("pcie"),
        level=WARNING, remedy="look at the BIOS settings of the slot",
    ),
    Check(
        id="gpu.pcie_replays", of="gpu", field="PCI/Replays Since Reset", title="PCIe replays",
        rule=at_most(1000), level=WARNING, remedy="watch it: a bad contact or riser",
    ),
    Check(
        id="gpu.persistence", of="gpu", field="Persistence Mode", title="persistence",
        rule=equals("Enabled"), level=WARNING,
        remedy="`systemctl enable --now nvidia-persistenced`, or `nvidia-smi -pm 1`",
    ),
    Check(
        id="gpu.mig", of="gpu", field="MIG Mode/Current", title="MIG", rule=equals("Disabled"),
        remedy="`nvidia-smi -i N -mig 0`: training uses whole GPUs",
    ),
    Check(
        id="gpu.compute_mode", of="gpu", field="Compute Mode", title="compute mode",
        rule=equals("Default", "Exclusive_Process"), remedy="`nvidia-smi -i N -c 0`",
    ),
    Check(
        id="gpu.clock_setting", of="gpu", field="Applications Clocks/Graphics", level=WARNING,
        title="clock setting", rule=equals_field("Default Applications Clocks/Graphics"),
        remedy="`nvidia-smi -i N -rac`: somebody has set lower clocks",
    ),
    Check(
        id="gpu.fabric", of="gpu", field="Fabric/State", title="fabric",
        rule=equals("Completed"), when=field_is("Fabric/State", "In Progress", "Not Started",
                                                "Completed", "Unknown Error", "?"),
        remedy="look at nv-fabricmanager's log; restart it, then the node",
    ),
    Check(
        id="gpu.fabric_status", of="gpu", field="Fabric/Status", title="fabric",
        rule=equals("Success"), when=field_is("Fabric/State", "Completed"),
        remedy="look at nv-fabricmanager's log; restart it, then the node",
    ),
    Check(
        id="gpu.fabric_manager", of="system", field="manager", title="nv-fabricmanager runs",
        rule=equals("yes"), when=lambda seen: seen.fields.get("switches", "0").strip("0?"),
        remedy="`systemctl enable --now nvidia-fabricmanager`, of the driver's version",
    ),
    Check(
        id="gpu.nvlink_down", of="gpu", field="links down", title="NVLinks down", rule=at_most(0),
        when=lambda seen: seen.fields.get("links", ""),
        remedy="restart the node; else the GPU or its board is bad",
    ),
    Check(
        id="gpu.nvlinks", of="gpu", field="links", title="NVLinks", rule=same, source="fleet",
        when=lambda seen: seen.fields.get("links", ""),
        remedy="restart the node; else the GPU or its board is bad",
    ),
    Check(
        id="gpu.expected_nvlinks", of="gpu", field="links", title="NVLinks",
        rule=expected("links"), source="expected", level=WARNING,
        when=lambda seen: seen.fields.get("links", "") and is_listed("links")(seen),
        remedy="restart the node; else the GPU or its board is bad",
    ),
    Check(
        id="gpu.nvlink_errors", of="gpu", field="link errors", title="NVLink errors",
        rule=at_most(0), when=lambda seen: seen.fields.get("links", ""), level=WARNING,
        remedy="watch it: `nvidia-smi nvlink -e`; links that go on counting slow NCCL down",
    ),
    Check(
        id="gpu.processes", of="gpu", field="processes", title="processes on an idle node",
        rule=at_most(0), contexts=NO_JOB, remedy="`soractl gpus --procs` names them",
    ),
    Check(
        id="gpu.memory_used", of="gpu", field="FB Memory Usage/Used", level=WARNING,
        title="memory in use on an idle node", rule=at_most(IDLE_MEMORY_MIB), contexts=NO_JOB,
        remedy="a process of a container, or memory that nobody frees: reset the GPU",
    ),
    Check(
        id="gpu.xid", of="kernel", field="messages", title="the kernel says",
        rule=no_message(_xid(of_program=False)), when=has("gpu"), remedy=RESET,
    ),
    Check(
        id="gpu.xid_program", of="kernel", field="messages", title="the kernel says",
        rule=no_message(_xid(of_program=True)), when=has("gpu"), level=WARNING,
        contexts=("idle", "epilog", "periodic"),
        remedy="a program failed on the GPU: `soractl why` if it was a run; start it again",
    ),
    Check(
        id="gpu.peermem", of="system", field="peermem", title="nvidia_peermem is loaded",
        rule=equals("yes"), level=WARNING,
        when=lambda seen: has("gpu")(seen) and has("ib")(seen),
        remedy="`modprobe nvidia_peermem`, unless NCCL uses DMA-BUF (kernel 5.12 and open driver)",
    ),
)  # fmt: skip


def _status(bad: str) -> Rule:
    """One of DCGM's words for a test; another one than these is unknown."""

    def rule(seen: Seen) -> str:
        if seen.value not in ("pass", "warn", "fail"):
            raise Unreadable(seen.also("reason"))
        return seen.also("reason") if seen.value == bad else ""

    return rule


# By `health --dcgm`, which runs NVIDIA's diagnostics.
DCGM = (
    Check(
        id="gpu.dcgm", of="dcgm", field="status", title="", rule=_status("fail"),
        remedy="take the node out; `dcgmi diag -r 3` there says more, and its maker asks for it",
    ),
    Check(
        id="gpu.dcgm_warning", of="dcgm", field="status", title="", rule=_status("warn"),
        level=WARNING, remedy="watch it, or set the node up as DCGM asks: the GPU can work",
    ),
)  # fmt: skip
