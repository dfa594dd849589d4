"""Hardware of a node as NCCL's settings name it: cards, interfaces, GPUs, versions, files."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from soractl.nccl.names import Version

IB, ETHERNET = "InfiniBand", "Ethernet"


@dataclass(frozen=True)
class Card:
    """A port of a network card that does RDMA."""

    name: str
    port: str
    active: bool
    state: str
    gbit_per_s: float | None
    link_layer: str
    interfaces: tuple[str, ...] = ()
    numa: int | None = None
    path: str = ""  # in /sys/devices


@dataclass(frozen=True)
class Interface:
    """A network interface."""

    name: str
    up: bool
    addresses: tuple[str, ...] = ()
    physical: bool = True
    mbit_per_s: int | None = None


@dataclass(frozen=True)
class Gpu:
    """A GPU's place on the PCI bus."""

    address: str
    numa: int | None = None
    path: str = ""


@dataclass(frozen=True)
class Hardware:
    """All of it."""

    cards: tuple[Card, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    knows_addresses: bool = True  # False: there is no `ip` to ask
    to_head: str | None = None  # the interface on the way to the head node; None: it is the head
    cores: int | None = None
    peer_memory: bool = False  # the module of GPUDirect RDMA before dma-buf
    nccl: Version | None = None
    torch: Version | None = None
    files: tuple[tuple[str, str, str], ...] = ()  # NCCL's own: file, name, value

    @property
    def usable_interfaces(self) -> tuple[Interface, ...]:
        """Those that are up and have an address as far as is known, without the machine's own."""
        return tuple(
            one
            for one in self.interfaces
            if one.up
            and one.name != "lo"
            and (one.addresses if self.knows_addresses else one.physical)
        )


def parse(text: str) -> Hardware:
    """Hardware as hardware.sh printed it; ValueError where its end is missing."""
    lines = [line.split("|") for line in text.splitlines()]
    if ["end"] not in lines:
        raise ValueError("the answer ends too early")
    fields = {kind: [line[1:] for line in lines if line[0] == kind] for kind, *_ in lines}
    # What the environment brings comes before the system's library.
    packages = [name for kind in ("package", "library") for (name,) in fields.get(kind, ())]
    return Hardware(
        cards=tuple(sorted(map(_card, fields.get("hca", ())), key=_by_number)),
        interfaces=tuple(map(_interface, fields.get("nic", ()))),
        gpus=tuple(Gpu(bus, _number(numa), path) for bus, numa, path in fields.get("gpu", ())),
        knows_addresses="tool" in fields,
        to_head=_way(fields.get("route", [[""]])[0][0]),
        cores=_cores(fields.get("cores", [[""]])[0][0]),
        peer_memory="module" in fields,
        nccl=_version(packages, "nvidia_nccl_"),
        torch=_version(packages, "torch-"),
        files=tuple(_setting(line) for line in fields.get("conf", ()) if "=" in line[1]),
    )


def distance(one: str, other: str, numa: tuple[int | None, int | None] = (None, None)) -> str:
    """The way between two devices as NCCL names it: PIX, PXB, PHB or SYS; empty: not known.

    PIX is one PCI switch, that is, at most its two ports between each device and the common one.
    """
    a, b = (PurePosixPath(path).parts for path in (one, other))
    if "devices" not in a or "devices" not in b:
        return ""
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    below_root = common - a.index("devices") - 2  # /sys/devices/pci0000:00 is the root itself
    if below_root >= 1:
        return "PIX" if max(len(a), len(b)) - common <= 2 else "PXB"
    if below_root == 0 or (numa[0] is not None and numa[0] == numa[1]):
        return "PHB"
    return "SYS"


def _card(fields: list[str]) -> Card:
    name, port, state, rate, layer, interfaces, numa, path = fields
    found = re.match(r"[0-9.]+", rate)
    return Card(
        name=name,
        port=port,
        active="ACTIVE" in state,
        state=state.partition(":")[2].strip() or state,
        gbit_per_s=float(found[0]) if found else None,
        link_layer=layer,
        interfaces=tuple(interfaces.split()),
        numa=_number(numa),
        path=path,
    )


def _interface(fields: list[str]) -> Interface:
    name, state, speed, physical, addresses = fields
    # Of some drivers, and of lo, the kernel does not know the state.
    up = state in ("up", "unknown")
    return Interface(name, up, tuple(addresses.split()), physical == "yes", _number(speed))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _way(route: str) -> str | None:
    """`10.0.0.1 dev eno1 src 10.0.0.2 ...`; to itself a machine goes by lo."""
    found = re.search(r" dev (\S+)", f" {route}")
    return found[1] if found and found[1] != "lo" and not route.startswith("local ") else None


def _cores(online: str) -> int | None:
    """`0-95,192` is 97."""
    total = 0
    for part in filter(None, online.split(",")):
        low, _, high = part.partition("-")
        total += int(high or low) - int(low) + 1
    return total or None


def _version(packages: list[str], prefix: str) -> Version | None:
    for name in packages:
        if name.startswith(prefix) and (found := re.search(r"-([0-9]+)\.([0-9]+)", name)):
            return int(found[1]), int(found[2])
    return None


def _setting(line: list[str]) -> tuple[str, str, str]:
    name, _, value = "|".join(line[1:]).partition("=")
    return line[0], name.strip(), value.strip()


def _by_number(card: Card) -> list[tuple[bool, int, str]]:
    """mlx5_2 before mlx5_10."""
    parts: list[str] = re.findall(r"[0-9]+|[^0-9]+", card.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
