"""Checks of InfiniBand ports and Ethernet interfaces, by /sys and the kernel's messages.

Totals of InfiniBand counters mean nothing (a healthy port of a public H100 node shows 14 receive
errors), so they are judged by the hour. `link_downed` has 8 bits and stays at 255.
"""

from soractl.health.check import (
    Check,
    Level,
    Rule,
    Seen,
    at_most_an_hour,
    equals,
    equals_field,
    field_is,
    has,
    no_message,
    number,
    same,
)

WARNING = Level.WARNING
COMPUTE_GBPS = 400  # a port of an HGX H100, H200 or B200 (MLPerf Training v3.1, v6.0; NVIDIA DGX)
FULL_COUNTER = 255

IS_INFINIBAND = field_is("link_layer", "InfiniBand")
IS_UP = field_is("operstate", "up")
CABLE = "reseat or replace the cable or its transceiver; look at the switch's port"
HCA = "restart the node; else reseat the card"


def _is_active(seen: Seen) -> str:
    return IS_INFINIBAND(seen) and field_is("state", "4: ACTIVE")(seen)


def _rate(seen: Seen) -> str:
    """As fast as the fastest InfiniBand port of the node."""
    rates = [
        number(port["rate"])
        for port in seen.facts.of("ib").values()
        if port.get("link_layer") == "InfiniBand" and port.get("rate", "?") != "?"
    ]
    best = max(rates, default=0.0)
    return "" if number(seen.value) >= best else f"{seen.value}, its siblings {best:g} Gb/s"


def _expected_rate(seen: Seen) -> str:
    return "" if number(seen.value) >= COMPUTE_GBPS else f"{seen.value}, expected {COMPUTE_GBPS}"


def _has_large_gpu(seen: Seen) -> str:
    names = {gpu.get("Product Name", "") for gpu in seen.facts.of("gpu").values()}
    large = ("H100 80GB HBM3", "H200", "B200")
    is_large = any(name.endswith(large) for name in names)
    return "yes" if is_large and _is_active(seen) else ""


def _downed(seen: Seen) -> str:
    if number(seen.value) >= FULL_COUNTER:
        return f"{seen.value}: the counter is full"
    return at_most_an_hour(0.1)(seen)


def _counter(name: str, field: str, title: str, an_hour: float) -> Check:
    return Check(
        id=f"ib.{name}", of="ib", field=field, title=title, rule=at_most_an_hour(an_hour),
        level=WARNING, when=_is_active, remedy=CABLE,
    )  # fmt: skip


def _traffic(name: str, field: str, title: str, rule: Rule) -> Check:
    return Check(
        id=f"eth.{name}", of="eth", field=field, title=title, rule=rule, level=WARNING, when=IS_UP,
        remedy=CABLE,
    )  # fmt: skip


CHECKS = (
    Check(
        id="ib.state", of="ib", field="state", title="state", rule=equals("4: ACTIVE"),
        when=IS_INFINIBAND, remedy=f"{CABLE}; INIT: is a subnet manager running?",
    ),
    Check(
        id="ib.physical", of="ib", field="phys_state", title="physical state",
        rule=equals("5: LinkUp"), when=IS_INFINIBAND, remedy=CABLE,
    ),
    Check(
        id="ib.rate", of="ib", field="rate", title="rate", rule=_rate, source="siblings",
        when=_is_active, remedy=CABLE,
    ),
    Check(
        id="ib.fleet_rate", of="ib", field="rate", title="rate", rule=same, source="fleet",
        when=_is_active, remedy=CABLE,
    ),
    Check(
        id="ib.expected_rate", of="ib", field="rate", title="rate", rule=_expected_rate,
        source="expected", when=_has_large_gpu, level=WARNING,
        remedy="ports of a compute network have 400 Gb/s on such nodes; leave others out of "
        "NCCL_IB_HCA",
    ),
    Check(
        id="ib.link_layer", of="ib", field="link_layer", title="link layer", rule=same,
        source="fleet", by_name=True,
        remedy="set the port's LINK_TYPE as on the others (mlxconfig)",
    ),
    Check(
        id="ib.firmware", of="ib", field="fw_ver", title="firmware", rule=same, source="fleet",
        by_name=True, level=WARNING, remedy="update the firmware of the odd ones",
    ),
    Check(
        id="ib.device", of="ib", field="hca_type", title="device", rule=same, source="fleet",
        by_name=True, level=WARNING,
        remedy="names of devices differ between nodes: set NCCL_IB_HCA for each node",
    ),
    Check(
        id="ib.pcie_width", of="ib", field="current_link_width", title="PCIe width",
        rule=equals_field("max_link_width"), remedy=HCA,
    ),
    Check(
        id="ib.pcie_speed", of="ib", field="current_link_speed", title="PCIe speed",
        rule=equals_field("max_link_speed"), remedy=HCA,
    ),
    _counter("symbol_errors", "symbol_error", "symbol errors", 10),
    _counter("receive_errors", "port_rcv_errors", "receive errors", 10),
    _counter("recoveries", "link_error_recovery", "link recoveries", 0.1),
    _counter("discards", "port_xmit_discards", "discarded packets", 100),
    _counter("integrity", "local_link_integrity_errors", "integrity errors", 1),
    _counter("overruns", "excessive_buffer_overrun_errors", "buffer overruns", 10),
    Check(
        id="ib.downs", of="ib", field="link_downed", title="link went down", rule=_downed,
        level=WARNING, when=_is_active, remedy=CABLE,
    ),
    Check(
        id="net.flaps", of="kernel", field="messages", title="the kernel says",
        rule=no_message(r"mlx5.*[Ll]ink (is )?[Dd]own"), when=has("ib"), level=WARNING,
        remedy=CABLE,
    ),
    Check(
        id="net.ofed", of="driver", field="version", title="mlx5_core", rule=same, source="fleet",
        level=WARNING, by_name=True, remedy="install the OFED that the other nodes have",
    ),
    Check(
        id="eth.link", of="eth", field="operstate", title="link", rule=same, source="fleet",
        by_name=True, remedy=CABLE,
    ),
    Check(
        id="eth.speed", of="eth", field="speed", title="speed in Mb/s", rule=same, source="fleet",
        by_name=True, when=IS_UP, remedy=CABLE,
    ),
    Check(
        id="eth.mtu", of="eth", field="mtu", title="MTU", rule=same, source="fleet", by_name=True,
        when=IS_UP, remedy="`ip link set DEVICE mtu N` as on the others: TCP stalls otherwise",
    ),
    Check(
        id="eth.duplex", of="eth", field="duplex", title="duplex", level=WARNING,
        rule=equals("full", "unknown"), when=IS_UP, remedy=CABLE,
    ),
    _traffic("receive_errors", "rx_errors", "receive errors", at_most_an_hour(10)),
    _traffic("send_errors", "tx_errors", "send errors", at_most_an_hour(10)),
    _traffic("checksums", "rx_crc_errors", "checksum errors", at_most_an_hour(1)),
    _traffic("missed", "rx_missed_errors", "missed packets", at_most_an_hour(1000)),
    _traffic("flaps", "carrier_changes", "changes of the carrier", at_most_an_hour(0.5, free=2)),
)  # fmt: skip
