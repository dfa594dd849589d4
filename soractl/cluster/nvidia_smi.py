"""Output of nvidia-smi, odd answers included, as values: a missing number is None, never 0."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soractl.cluster import gpu_columns
from soractl.cluster.gpu_columns import MIB, Number

APP_FIELDS = ("pid", "gpu_uuid", "used_memory", "process_name")

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
    """A process on a GPU; a process in a container or of another MIG device may lack facts."""

    pid: int
    gpu_index: int | None
    mem_used_bytes: int | None
    command: str | None
    user: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU and its numbers by key, as `gpu_columns.NUMBERS` lists them; None: not known.

    >>> gpu = Gpu(0, "GPU-5a1e", "NVIDIA H100 80GB HBM3", {"power_w": 612.0, "util_pct": None})
    >>> gpu.numbers["power_w"]
    612.0
    """

    index: int
    uuid: str | None
    name: str | None
    numbers: Mapping[str, float | None]
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> float | None:
        return self.numbers.get(key)

    def as_json(self) -> dict[str, Any]:
        """For programs: the numbers beside the other facts."""
        facts = {"index": self.index, "uuid": self.uuid, "name": self.name}
        return {**facts, **self.numbers, "notes": self.notes}


def gpu_fields() -> tuple[str, ...]:
    """The fields that are asked for."""
    numbers = (number.query for number in gpu_columns.NUMBERS)
    return ("index", "uuid", "name", *numbers, "mig.mode.current")


def parse_gpus(
    text: str, exit_code: int, names: Sequence[str] | None = None
) -> tuple[list[Gpu], list[str]]:
    """GPUs of a `--query-gpu` answer, and notes on everything in it that is not a GPU.

    `names` are the fields that were asked for at last, by default all of them.
    """
    gpus: list[Gpu] = []
    notes: list[str] = []
    names = names or gpu_fields()
    for line in filter(None, map(str.strip, text.splitlines())):
        fields = line.split(", ")
        if len(fields) != len(names):
            notes.append(line[:160])
        elif fields[0].isdigit():
            gpus.append(_parse_gpu(dict(zip(names, fields, strict=True))))
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


def believed(number: Number, value: float | None, notes: list[str]) -> float | None:
    """The value, or None with a note where no GPU can have it."""
    if value is None or 0 <= value <= number.most:
        return value
    notes.append(f"{number.query} says {value:.6g}, which cannot be")
    return None


def _parse_gpu(fields: Mapping[str, str]) -> Gpu:
    notes: list[str] = []
    numbers = {
        number.key: believed(number, _parsed(number, fields.get(number.query, "")), notes)
        for number in gpu_columns.NUMBERS
    }
    used, total = numbers.get("mem_used_bytes"), numbers.get("mem_total_bytes")
    if used is not None and total is not None and used > total:
        numbers["mem_used_bytes"] = None
        notes.append("memory.used is more than memory.total")
    return Gpu(
        index=int(fields["index"]),
        uuid=_word(fields["uuid"]),
        name=_word(fields["name"]),
        numbers=numbers,
        notes=(*_notes(fields), *notes),
    )


def _parsed(number: Number, text: str) -> float | None:
    return number.parsed(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


def _notes(fields: Mapping[str, str]) -> list[str]:
    asked = {number.query: number for number in gpu_columns.NUMBERS}
    missing = {
        name: fields.get(name, "")
        for name, number in asked.items()
        if _parsed(number, fields.get(name, "")) is None
    }
    odd = sorted({value.strip("[]") for value in missing.values() if value not in NOT_OFFERED})
    silent = [name for name, value in missing.items() if value in NOT_OFFERED]
    if fields.get("mig.mode.current") == "Enabled":
        silent = ["MIG is on, utilisation" if n == "utilization.gpu" else n for n in silent]
        odd += [] if silent else ["MIG is on"]
    return odd + ([f"{', '.join(silent)} not reported"] if silent else [])


def _word(text: str) -> str | None:
    return None if text in NOT_OFFERED or text.startswith("[") else text


def _mib(text: str) -> int | None:
    return round(float(text) * MIB) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


def _ranges(indices: list[int]) -> str:
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
