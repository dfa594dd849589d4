"""Power and utilisation of the GPUs of a run's nodes, as nvidia-smi prints them at one time."""

import time
from collections.abc import Sequence

from soractl.diagnosis.second_sign import PowerSample
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request

POWER_S = 6.0
QUERY = Request(
    (
        *("nvidia-smi", "--query-gpu=index,power.draw,power.limit,utilization.gpu"),
        "--format=csv,noheader,nounits",
    )
)


def ask_power(nodes: Sequence[Node], remote: Remote) -> tuple[PowerSample, ...]:
    """A sample of each GPU whose numbers are known; nodes without GPUs have none."""
    taken_s = time.monotonic()
    results = run_everywhere(nodes, lambda _: QUERY, remote, deadline_s=POWER_S)
    return tuple(sample for result in results for sample in samples_of(result, taken_s))


def samples_of(result: NodeResult, taken_s: float) -> list[PowerSample]:
    """The samples in a node's answer; a GPU without one of the numbers has none."""
    found = []
    for line in result.stdout.splitlines():
        index, *numbers = line.split(", ")
        try:
            power_w, limit_w, utilization = map(float, numbers)
        except ValueError:  # [N/A], or a message in place of numbers
            continue
        found.append(
            PowerSample(f"{result.node.name}:{index}", taken_s, power_w, limit_w, utilization)
        )
    return found
