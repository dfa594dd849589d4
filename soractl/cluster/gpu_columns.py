"""Columns of `gpus` as data: each line is asked of the driver, parsed, combined and shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 2**20
GIB = 2**30

Combine = Callable[[Sequence[float]], float]


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of a GPU, and the columns that show it.

    This line alone makes a column, a key in JSON, and a field that is asked for:

    >>> clock = Number(key="clock_hz", query="clocks.sm", scale=10**6, most=10**10,
    ...                columns={"CLOCK MHz": max}, shown_in=10**6,
    ...                nvml=lambda library, gpu: library.nvmlDeviceGetClockInfo(gpu, 1))
    """

    key: str  # in JSON, with the unit
    query: str  # of `nvidia-smi --query-gpu`
    most: float  # a larger one is not believed
    columns: Mapping[str, Combine]  # header, and what makes one number of those of several GPUs
    nvml: Callable[[Any, Any], float]  # the same from pynvml and a handle, in the unit of `key`
    scale: int | None = None  # units of `key` in one of nvidia-smi's
    shown_in: float = 1  # units of `key` in one of the header's
    digits: int = 0
    of: str | None = None  # key of the total that stands behind the number
    sort: str | None = None  # the value of --sort
    own_header: str = ""  # of a GPU's own row, where it differs

    @property
    def gpu_header(self) -> str:
        """Header in a table of single GPUs; none where the number is only shown as a total."""
        return self.own_header or next(iter(self.columns), "")

    def parsed(self, text: str) -> float:
        """nvidia-smi's number in the unit of `key`; ValueError for anything else."""
        value = float(text)
        return value if self.scale is None else round(value * self.scale)


def _mean(values: Sequence[float]) -> float:
    # `statistics` loads fractions and decimals: 17 ms of every `gpus`.
    return sum(values) / len(values)


def _memory(library: Any, gpu: Any) -> Any:
    try:
        return library.nvmlDeviceGetMemoryInfo(gpu, library.nvmlMemory_v2)
    except (library.NVMLError_FunctionNotFound, library.NVMLError_ArgumentVersionMismatch):
        return library.nvmlDeviceGetMemoryInfo(gpu)  # drivers before 510


NUMBERS: tuple[Number, ...] = (
    Number(
        key="util_pct",
        query="utilization.gpu",
        most=100,
        columns={"UTIL %": _mean},
        nvml=lambda library, gpu: float(library.nvmlDeviceGetUtilizationRates(gpu).gpu),
        sort="util",
    ),
    Number(
        key="mem_used_bytes",
        query="memory.used",
        scale=MIB,
        most=2**50,
        columns={"MEM GiB": sum},
        nvml=lambda library, gpu: int(_memory(library, gpu).used),
        shown_in=GIB,
        digits=1,
        of="mem_total_bytes",
        sort="mem",
    ),
    Number(
        key="mem_total_bytes",
        query="memory.total",
        scale=MIB,
        most=2**50,
        columns={},
        nvml=lambda library, gpu: int(_memory(library, gpu).total),
        shown_in=GIB,
        digits=1,
    ),
    Number(
        key="power_w",
        query="power.draw",
        most=10_000,
        columns={"POWER W/GPU": _mean, "POWER W": sum},
        own_header="POWER W",
        nvml=lambda library, gpu: library.nvmlDeviceGetPowerUsage(gpu) / 1000,
        sort="power",
    ),
    Number(
        key="temp_c",
        query="temperature.gpu",
        most=200,
        columns={"TEMP C": max},
        nvml=lambda library, gpu: float(
            library.nvmlDeviceGetTemperature(gpu, library.NVML_TEMPERATURE_GPU)
        ),
        sort="temp",
    ),
)


def combined(values: Iterable[float | None], combine: Combine) -> float | None:
    """One number of those that are known; None without any."""
    known = [value for value in values if value is not None]
    return combine(known) if known else None
