"""`python -m trainer.pair_speed`: one rank of all-reduces between two nodes, asked line by line.

Each line of stdin is an object: address, port, rank, world, bytes, times, timeout_s, device; an
empty one asks for the number of GPUs and for what the node's ports carry. Each answer is an object:
the bytes that each rank moved a second, by the fastest of some rounds, or an error.
The process stays for the next pair, since loading torch takes longer than all measurements.
"""

import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from trainer import packages
from trainer.questions import answer_lines

with packages.needed():
    import torch
    import torch.distributed as dist


def measure(question: dict[str, Any]) -> float:
    """Bytes a second of an all-reduce, as NCCL's tests reckon `busbw`: 2 (n - 1) / n of a size."""
    device = torch.device(question["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = int(question["world"])
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{question['address']}:{question['port']}",
        rank=int(question["rank"]),
        world_size=world,
        timeout=timedelta(seconds=question["timeout_s"]),
    )
    try:
        values = torch.zeros(int(question["bytes"]) // 4, device=device)
        dist.all_reduce(values)  # opens the connections
        best_s = min(_seconds(values) for _ in range(int(question["times"])))
        return float(question["bytes"]) * 2 * (world - 1) / world / best_s
    finally:
        dist.destroy_process_group()


def _seconds(values: torch.Tensor) -> float:
    if values.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def network_bytes_per_s(devices: Path) -> float:
    """Sum over the active ports of a node, InfiniBand before Ethernet (RoCE); 0.0 without any."""
    sums: dict[str, float] = {}
    for port in devices.glob("*/ports/*"):
        state, rate, layer = (_line(port / name) for name in ("state", "rate", "link_layer"))
        found = re.match(r"[0-9.]+", rate)
        if found and state.startswith("4"):
            sums[layer] = sums.get(layer, 0.0) + float(found[0]) * 1e9 / 8
    return sums.get("InfiniBand", sums.get("Ethernet", 0.0))


def _line(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    if not question:
        carried = network_bytes_per_s(Path("/sys/class/infiniband"))
        return {"devices": torch.cuda.device_count(), "network_bytes_per_s": carried}
    return {"bytes_per_s": measure(question)}


def main() -> None:
    """Answers until stdin ends."""
    answer_lines(_answer)


if __name__ == "__main__":
    main()
