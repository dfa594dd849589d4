"""The GPUs of this machine, asked of the driver's own library instead of nvidia-smi."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soractl.cluster import gpu_columns
from soractl.cluster.nvidia_smi import Gpu, GpuProcess, believed
from soractl.cluster.rank_environment import RUN_ID


@dataclass
class Found:
    """The library's answer; `*_known` is False where it is not all there is."""

    gpus: list[Gpu] = field(default_factory=list)
    processes: list[GpuProcess] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gpus_known: bool = True
    processes_known: bool = True


def read() -> Found:
    """GPUs, processes and notes; a machine without a driver is a note."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        notes = [f"no NVIDIA driver: {error}"]
        return Found(notes=notes, gpus_known=False, processes_known=False)
    found = Found()
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            except pynvml.NVMLError as error:
                found.notes.append(f"GPU {index}: {error}")
                found.processes_known = False
                continue
            found.gpus.append(_gpu(pynvml, index, handle))
            try:
                found.processes += _processes(pynvml, index, handle)
            except pynvml.NVMLError as error:
                found.notes.append(f"GPU {index}: processes not known: {error}")
                found.processes_known = False
    finally:
        pynvml.nvmlShutdown()
    return found


def _gpu(pynvml: Any, index: int, handle: Any) -> Gpu:
    notes: list[str] = []

    def ask(what: str, question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except pynvml.NVMLError_NotSupported:
            notes.append(f"{what} not reported")
        except pynvml.NVMLError as error:
            notes.append(f"{what}: {error}")
        return None

    numbers = {
        number.key: believed(number, ask(number.query, number.nvml, pynvml, handle), notes)
        for number in gpu_columns.NUMBERS
    }
    return Gpu(
        index=index,
        uuid=ask("uuid", pynvml.nvmlDeviceGetUUID, handle),
        name=ask("name", pynvml.nvmlDeviceGetName, handle),
        numbers=numbers,
        notes=tuple(notes),
    )


def _processes(pynvml: Any, index: int, handle: Any) -> list[GpuProcess]:
    return [
        GpuProcess(
            process.pid,
            index,
            process.usedGpuMemory,
            _first_line(Path(f"/proc/{process.pid}/cmdline"), b""),
            user=_owner(process.pid),
            run_id=_first_line(Path(f"/proc/{process.pid}/environ"), f"{RUN_ID}=".encode()),
        )
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    ]


def _first_line(file: Path, prefix: bytes) -> str | None:
    try:
        words = file.read_bytes().split(b"\0")
    except OSError:
        return None
    found = [
        word.removeprefix(prefix).decode(errors="replace")
        for word in words
        if word.startswith(prefix)
    ]
    return (found[0] or None) if found else None  # one that is ending has no command any more


def _owner(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}").owner()
    except (OSError, KeyError):
        return None
