"""Numbers of all nodes in Prometheus' text format 0.0.4."""

from collections.abc import Iterator, Mapping

from soractl.monitor.live import NodeNow, Snapshot

Label = tuple[str, str]
GPU = {
    "power_w": ("soractl_gpu_power_watts", 1.0),
    "util_pct": ("soractl_gpu_utilization_ratio", 0.01),
    "temp_c": ("soractl_gpu_temperature_celsius", 1.0),
    "clock_mhz": ("soractl_gpu_sm_clock_hertz", 1e6),
    "mem_mib": ("soractl_gpu_memory_used_bytes", 2.0**20),
}
NODE = {
    "load": ("soractl_node_load1", 1.0),
    "cpu_pct": ("soractl_node_cpu_ratio", 0.01),
    "mem_available_mib": ("soractl_node_memory_available_bytes", 2.0**20),
}
HELP = {
    "soractl_node_up": "1 if the node answered the last look",
    "soractl_gpu_power_watts": "Power that a GPU draws",
    "soractl_gpu_utilization_ratio": "Share of time in which a kernel ran",
    "soractl_gpu_temperature_celsius": "Temperature of a GPU",
    "soractl_gpu_sm_clock_hertz": "Clock of the multiprocessors",
    "soractl_gpu_memory_used_bytes": "Memory of a GPU that is used",
    "soractl_node_load1": "Load average of the last minute",
    "soractl_node_cpu_ratio": "Share of the processors' time that was used",
    "soractl_node_memory_available_bytes": "Memory of the node that is available",
    "soractl_infiniband_bytes_per_second": "Rate of a port, by direction",
    "soractl_ethernet_bytes_per_second": "Rate of an interface, by direction",
    "soractl_clock_offset_seconds": "Clock of the node minus that of the monitor",
    "soractl_clock_offset_bound_seconds": "How far from that the truth may be",
}


def text(snapshot: Snapshot) -> str:
    """All numbers that are known; what is unknown has no line."""
    lines: dict[str, list[str]] = {name: [] for name in HELP}
    for node in snapshot.nodes:
        for name, labels, value in _numbers(node):
            shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels)
            lines[name].append(f"{name}{{{shown}}} {value:.9g}")
    return "".join(
        f"# HELP {name} {HELP[name]}\n# TYPE {name} gauge\n" + "".join(f"{one}\n" for one in some)
        for name, some in lines.items()
    )


def _numbers(node: NodeNow) -> Iterator[tuple[str, list[Label], float]]:
    here = ("node", node.name)
    yield "soractl_node_up", [here], float(node.values is not None)
    if node.clock and node.clock.offset:
        yield "soractl_clock_offset_seconds", [here], node.clock.offset.value
        yield "soractl_clock_offset_bound_seconds", [here], node.clock.offset.bound
    if node.values is None:
        return
    yield from _scaled(NODE, node.values.node, [here])
    for index, gpu in node.values.gpus.items():
        yield from _scaled(GPU, gpu, [here, ("gpu", str(index))])
    for port, rates in node.values.ports.items():
        yield from _rates("soractl_infiniband_bytes_per_second", rates, [here, ("port", port)])
    for name, rates in node.values.links.items():
        labels = [here, ("interface", name)]
        yield from _rates("soractl_ethernet_bytes_per_second", rates, labels)


def _scaled(
    names: Mapping[str, tuple[str, float]], values: Mapping[str, float | None], labels: list[Label]
) -> Iterator[tuple[str, list[Label], float]]:
    for key, (name, scale) in names.items():
        if (value := values.get(key)) is not None:
            yield name, labels, value * scale


def _rates(
    name: str, rates: Mapping[str, float | None], labels: list[Label]
) -> Iterator[tuple[str, list[Label], float]]:
    for way in ("in", "out"):
        if (value := rates[f"{way}_bytes_per_s"]) is not None:
            yield name, [*labels, ("direction", way)], value


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
