"""Facts of a node as `probe.sh` prints them: fields by kind of thing and by its name. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from soractl.cluster.nvidia_smi import EXIT_CODES
from soractl.remote.connections import ENDED_BY_TIMEOUT
from soractl.remote.scripts import sections

NO_PROGRAM = 127
NO_DEVICE = 6
KERNEL_HOURS = 24  # older messages of the kernel are not judged

# Columns of df by section; the second two are of a df without --output.
DISKS = {
    "disks": ("", "space", "inodes", ""),
    "space": ("", "", "", "", "space", ""),
    "inodes": ("", "", "", "", "inodes", ""),
}

# Sections of `nvidia-smi -q` that drivers before 535 name otherwise.
_OLD_NAMES = {
    "Clocks Throttle Reasons": "Clocks Event Reasons",
    "Power Readings": "GPU Power Readings",
}
_GPU = re.compile(r"^GPU ([0-9A-Fa-f:.]+)$")
_LINE = re.compile(r"^( *)(\S.*?) *(?: : (.*))?$")
_STAMP = re.compile(r"^(?:<\d+>)?\[ *(\d+)\.\d+\]")
_LINK_GPU = re.compile(r"^GPU (\d+):")
_LINK_FAULTS = re.compile(r"Link \d+: .*(?:Replay|Recovery|CRC)[^:]*: (\d+)")


@dataclass(frozen=True)
class Facts:
    """All that is known of a node.

    >>> facts = Facts({"gpu": {"0": {"ECC Mode/Current": "Enabled"}}})
    >>> facts.of("gpu"), facts.of("ib")
    ({'0': {'ECC Mode/Current': 'Enabled'}}, {})
    """

    items: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)  # kind, and why it is not known

    def of(self, kind: str) -> Mapping[str, Mapping[str, str]]:
        """Things of a kind by name; a thing that there is only once has the name ''."""
        return self.items.get(kind, {})

    def one(self, kind: str, name: str) -> str | None:
        """A field of a thing that there is only once."""
        return self.of(kind).get("", {}).get(name)


def parse(answer: str) -> Facts:
    """The answer of `probe.sh`, and of `launch/probe.py` with it, be it whole or cut short."""
    found = sections(answer)
    items: dict[str, dict[str, dict[str, str]]] = {}
    missing: dict[str, str] = {}
    for section in ("facts", "launch"):  # the second by launch/probe.py, where it is asked too
        for kind, item, name, value in _facts(found.get(section, ("", 0))[0]):
            items.setdefault(kind, {}).setdefault(item, {})[name] = value
    for section, columns in DISKS.items():
        for folder, name, percent in _disks(found.get(section, ("", 0))[0], columns):
            items.setdefault("disk", {}).setdefault(folder, {})[name] = percent
    if "disk" not in items and any(found.get(one, ("", 0))[1] in ENDED_BY_TIMEOUT for one in DISKS):
        missing["disk"] = "df did not answer in time"
    if "facts" not in found:
        missing |= dict.fromkeys(("system", "memory", "limits", "cpu"), "the node did not say")
    _add_gpus(found, items, missing)
    _add_kernel(found, items, missing)
    return Facts(items, missing)


def _facts(text: str) -> Iterator[list[str]]:
    lines = (line.split("\t", 3) for line in text.splitlines())
    return (fields for fields in lines if len(fields) == 4)


def _disks(text: str, columns: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Folders, and of what they are how full; images and pseudo file systems are always full."""
    for line in text.splitlines()[1:]:
        fields = line.split(None, len(columns) - 1)
        if len(fields) < len(columns) or fields[0].startswith("/dev/loop"):
            continue
        if fields[0].startswith("/dev/") or fields[-1] in ("/dev/shm", "/tmp", "/run"):
            for name, percent in zip(columns, fields, strict=True):
                if name:
                    yield fields[-1], name, percent


def _add_gpus(
    found: Mapping[str, tuple[str, int]],
    items: dict[str, dict[str, dict[str, str]]],
    missing: dict[str, str],
) -> None:
    """The GPUs, the driver's own state, and the links between GPUs."""
    text, code = found.get("nvidia", ("", 124))
    on_bus = items.get("system", {}).get("", {}).get("gpus_on_bus", "?")
    if code in (NO_PROGRAM, NO_DEVICE) and on_bus in ("0", "?"):
        return  # a node without GPUs
    head, gpus = _gpus(text)
    meaning = EXIT_CODES.get(code, f"ended with exit code {code}")
    items["nvidia"] = {
        "": {**head, "gpus": str(len(gpus)), "state": "ok" if code == 0 else meaning}
    }
    if not gpus:
        missing["gpu"] = f"nvidia-smi: {meaning}"
        return
    items["gpu"] = gpus
    for section, read in (("links", _links), ("linkerrors", _link_faults)):
        printed, link_code = found.get(section, ("", 124))
        for gpu, fields in read(printed).items() if link_code == 0 else ():
            gpus.get(gpu, {}).update(fields)


def _gpus(text: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Fields above the first GPU, and those of each GPU as `Section/Field` by its index."""
    head: dict[str, str] = {}
    gpus: dict[str, dict[str, str]] = {}
    fields, path = head, list[str]()
    for line in text.splitlines():
        depth, name, value = _line(line)
        if not depth:
            if begin := _GPU.match(line):
                fields = gpus.setdefault(str(len(gpus)), {"bus": begin[1], "processes": "0"})
                continue
            if not name:
                continue
        elif fields is not head:
            depth -= 1
        path[depth:] = [name]
        if name == "Process ID":
            fields["processes"] = str(int(fields["processes"]) + 1)
        elif value is not None:
            fields["/".join(path)] = value
    return head, gpus


@lru_cache(maxsize=4096)  # GPUs and nodes print the same lines
def _line(line: str) -> tuple[int, str, str | None]:
    """Depth, name and value of a line; without a name it is empty, and a section has no value."""
    found = _LINE.match(line)
    if not found:
        return 0, "", None
    return len(found[1]) // 4, _OLD_NAMES.get(found[2], found[2]), found[3]


def _links(text: str) -> dict[str, dict[str, str]]:
    """`nvidia-smi nvlink -s`: links of each GPU, and how many of them are down."""
    found: dict[str, dict[str, str]] = {}
    for gpu, lines in _by_gpu(text):
        links = [line for line in lines if re.match(r"Link \d+:", line)]
        if links:
            down = sum("inactive" in line.lower() for line in links)
            found[gpu] = {"links": str(len(links) - down), "links down": str(down)}
    return found


def _link_faults(text: str) -> dict[str, dict[str, str]]:
    """`nvidia-smi nvlink -e`: the sum of each GPU's counters."""
    found = {}
    for gpu, lines in _by_gpu(text):
        counts = [int(match[1]) for line in lines if (match := _LINK_FAULTS.match(line))]
        if counts:
            found[gpu] = {"link errors": str(sum(counts))}
    return found


def _by_gpu(text: str) -> Iterator[tuple[str, list[str]]]:
    """Indented lines below each GPU's own."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if begin := _LINK_GPU.match(line):
            lines = found.setdefault(begin[1], [])
        elif found:
            lines.append(line.strip())
    return iter(found.items())


def _add_kernel(
    found: Mapping[str, tuple[str, int]],
    items: dict[str, dict[str, dict[str, str]]],
    missing: dict[str, str],
) -> None:
    """Messages of the last day; they are for root alone where dmesg is restricted."""
    text, code = found.get("kernel", ("", 1))
    if code != 0:
        missing["kernel"] = "the kernel's messages may not be read"
        return
    now = items.get("system", {}).get("", {}).get("uptime", "?").partition(".")[0]
    since_s = int(now) - KERNEL_HOURS * 3600 if now.isdigit() else 0
    lines = (line for line in text.splitlines() if line and _second(line) >= since_s)
    items["kernel"] = {"": {"messages": "\n".join(lines) or "none"}}


def _second(line: str) -> float:
    """The second of a message; one without a stamp counts as new."""
    stamp = _STAMP.match(line)
    return float(stamp[1]) if stamp else float("inf")
