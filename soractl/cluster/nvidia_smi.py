"""What nvidia-smi prints, odd answers included, as values: a missing number is None, never 0."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

GPU_FIELDS = (
    "index",
    "uuid",
    "name",
    "utilization.gpu",
    "memory.used",
    "memory.total",
    "power.draw",
    "temperature.gpu",
    "mig.mode.current",
)
APP_FIELDS = ("pid", "gpu_uuid", "used_memory", "process_name")
MIB = 2**20

NOT_OFFERED = ("[N/A]", "[Not Supported]", "N/A", "Not Supported", "")
# From the manual page; 124, 127 and 137 are those of `timeout`.
EXIT_CODES = {
    4: "no permission",
    6: "no device found",
    8: "a GPU's power cables are not attached",
    9: "the driver is not loaded",
    12: "the NVML library was not found",
    14: "a GPU's infoROM is corrupt",
    15: "a GPU has fallen off the bus",
    16: "a GPU must be reset",
    18: "driver and library versions differ",
    124: "did not answer in time",
    127: "not installed, or not in PATH",
    137: "did not answer in time and had to be killed",
}


@dataclass(frozen=True)
class GpuProcess:
    pid: int
    gpu_index: int | None
    mem_used_bytes: int | None
    command: str | None
    user: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Gpu:
    index: int
    uuid: str | None
    name: str | None
    util_pct: float | None
    mem_used_bytes: int | None
    mem_total_bytes: int | None
    power_w: float | None
    temp_c: float | None
    notes: tuple[str, ...] = ()


def parse_gpus(text: str, exit_code: int) -> tuple[list[Gpu], list[str]]:
    """GPUs of a `--query-gpu` answer, and notes on everything in it that is not a GPU."""
    gpus: list[Gpu] = []
    notes: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        fields = line.split(", ")
        if len(fields) != len(GPU_FIELDS):
            notes.append(line[:160])
        elif fields[0].isdigit():
            gpus.append(_parse_gpu(fields))
        else:
            notes.append(f"a GPU answers {fields[0]}")
    if exit_code and (not notes or exit_code in EXIT_CODES):
        meaning = EXIT_CODES.get(exit_code, f"ended with exit code {exit_code}")
        # The program's own words follow; a shell's "failed to run" adds nothing to 127.
        notes = [f"nvidia-smi: {meaning}", *(() if exit_code == 127 else notes)]
    return gpus, notes


def parse_apps(text: str, gpus: Iterable[Gpu]) -> list[GpuProcess]:
    """Processes of a `--query-compute-apps` answer; lines that are none are left out."""
    index_of = {gpu.uuid: gpu.index for gpu in gpus}
    processes = []
    for line in text.splitlines():
        # A process chooses its own name, commas included: it comes last.
        fields = line.strip().split(", ", len(APP_FIELDS) - 1)
        if len(fields) == len(APP_FIELDS) and fields[0].isdigit():
            pid, uuid, memory, command = fields
            gpu_index = index_of.get(uuid)
            processes.append(GpuProcess(int(pid), gpu_index, _mib(memory), _word(command)))
    return processes


def fold_notes(gpus: Iterable[Gpu]) -> list[str]:
    """One note for all GPUs that have it: `GPU 0-6: power.draw not reported`."""
    indices_of: dict[str, list[int]] = {}
    for gpu in gpus:
        for note in gpu.notes:
            indices_of.setdefault(note, []).append(gpu.index)
    return [f"GPU {_ranges(indices)}: {note}" for note, indices in indices_of.items()]


def _parse_gpu(fields: list[str]) -> Gpu:
    values = dict(zip(GPU_FIELDS, fields, strict=True))
    return Gpu(
        index=int(values["index"]),
        uuid=_word(values["uuid"]),
        name=_word(values["name"]),
        util_pct=_number(values["utilization.gpu"]),
        mem_used_bytes=_mib(values["memory.used"]),
        mem_total_bytes=_mib(values["memory.total"]),
        power_w=_number(values["power.draw"]),
        temp_c=_number(values["temperature.gpu"]),
        notes=tuple(_notes(values)),
    )


def _notes(values: dict[str, str]) -> list[str]:
    measured = {name: values[name] for name in GPU_FIELDS[3:8]}
    missing = {name: value for name, value in measured.items() if _number(value) is None}
    odd = sorted({value.strip("[]") for value in missing.values() if value not in NOT_OFFERED})
    silent = [name for name, value in missing.items() if value in NOT_OFFERED]
    if values["mig.mode.current"] == "Enabled":
        silent = ["MIG is on, utilisation" if n == "utilization.gpu" else n for n in silent]
        odd += [] if silent else ["MIG is on"]
    return odd + ([f"{', '.join(silent)} not reported"] if silent else [])


def _word(text: str) -> str | None:
    return None if text in NOT_OFFERED or text.startswith("[") else text


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


def _mib(text: str) -> int | None:
    number = _number(text)
    return None if number is None else round(number * MIB)


def _ranges(indices: list[int]) -> str:
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
