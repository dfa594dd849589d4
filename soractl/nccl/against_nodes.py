"""Environments of nodes against their hardware, and against each other. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from soractl.nccl.detect import chosen_cards
from soractl.nccl.hardware import Card, Hardware, Interface, distance
from soractl.nccl.lint import Env, Finding, Severity
from soractl.remote.folding import fold_names

# What one node may have otherwise than another, since it names the node's own parts.
MAY_DIFFER = (
    "NCCL_IB_HCA",
    "NCCL_SOCKET_IFNAME",
    "NCCL_OOB_NET_IFNAME",
    "GLOO_SOCKET_IFNAME",
    "NCCL_IB_GID_INDEX",
    "NCCL_TOPO_FILE",
    "OMP_NUM_THREADS",
)
_LEVELS = ("LOC", "NVL", "PIX", "PXB", "PHB", "SYS")


@dataclass(frozen=True)
class NameList:
    """`[^][=]name[:port],...` as NCCL reads it.

    >>> NameList.parse("mlx5_1").takes("mlx5_10"), NameList.parse("=mlx5_1").takes("mlx5_10")
    (True, False)
    """

    names: tuple[tuple[str, str], ...]  # name and port, which may be empty
    exact: bool
    excluding: bool

    @classmethod
    def parse(cls, value: str) -> "NameList":
        """The list of a value."""
        excluding = value.startswith("^")
        rest = value.removeprefix("^")
        pairs = (word.partition(":") for word in rest.removeprefix("=").split(",") if word)
        names = tuple((name, port.partition(":")[0]) for name, _, port in pairs)
        return cls(names, rest.startswith("="), excluding)

    def fits(self, entry: tuple[str, str], name: str, port: str = "") -> bool:
        """One entry names this card or interface."""
        same = name == entry[0] if self.exact else name.startswith(entry[0])
        return same and (not entry[1] or not port or entry[1] == port)

    def takes(self, name: str, port: str = "") -> bool:
        """NCCL would use it."""
        return any(self.fits(entry, name, port) for entry in self.names) != self.excluding


def check_nodes(envs: Mapping[str, Env], nodes: Mapping[str, Hardware]) -> list[Finding]:
    """Findings of all nodes by name; those that several share are one."""
    shared: dict[tuple[Severity, str, str], list[str]] = {}
    for node, hardware in nodes.items():
        for rule in RULES:
            for found in rule(envs[node], hardware):
                shared.setdefault((found.severity, found.name, found.message), []).append(node)
    findings = [
        Finding(*what, nodes=() if len(names) == len(nodes) > 1 else tuple(names))
        for what, names in shared.items()
    ]
    return [*findings, *_between_nodes(envs, nodes)]


def _cards(env: Env, hardware: Hardware) -> Iterator[Finding]:
    value = env.get("NCCL_IB_HCA", "")
    if not value or env.get("NCCL_IB_DISABLE") == "1":
        return
    wanted = NameList.parse(value)
    yield from _entries("NCCL_IB_HCA", wanted, [card.name for card in hardware.cards])
    taken = [card for card in hardware.cards if wanted.takes(card.name, card.port)]
    if wanted.excluding and not taken:
        yield Finding("error", "NCCL_IB_HCA", "it leaves out every card")
    for card in taken:
        if not card.active and not wanted.excluding:
            yield Finding("error", "NCCL_IB_HCA", f"{card.name} port {card.port} is {card.state}")
    yield from _odd_cards([card for card in taken if card.active])
    left = [card.name for card in chosen_cards(hardware) if card not in taken]
    if left and taken and not wanted.excluding:
        yield Finding("note", "NCCL_IB_HCA", f"{', '.join(left)} of the same fabric is not used")


def _entries(name: str, wanted: NameList, there: Sequence[str]) -> Iterator[Finding]:
    """Entries that fit nothing, and prefixes that fit more than they say."""
    fitting_by = {e: [other for other in there if wanted.fits(e, other)] for e in wanted.names}
    missing = [entry[0] for entry, fitting in fitting_by.items() if not fitting]
    if missing and not wanted.excluding:
        yield Finding("error", name, _missing(missing, there))
    for entry, fitting in fitting_by.items():
        more = [other for other in fitting if other != entry[0]]
        if entry[0] in fitting and more:
            yield Finding(
                "warning", name, f"{entry[0]} takes {', '.join(more)} too; write = before the list"
            )


def _missing(names: Sequence[str], there: Sequence[str]) -> str:
    """`eth0 is not there; there is eno1`."""
    others = f"there {'is' if len(there) < 2 else 'are'} {', '.join(there) or 'none'}"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not there; {others}"


def _odd_cards(taken: Sequence[Card]) -> Iterator[Finding]:
    """Cards of another link layer or a lower rate than the best."""
    best = max(taken, key=lambda card: card.gbit_per_s or 0, default=None)
    for card in taken:
        assert best is not None
        if card.link_layer != best.link_layer:
            why = f"{card.name} is {card.link_layer}, {best.name} {best.link_layer}"
            yield Finding("warning", "NCCL_IB_HCA", f"{why}: is it for storage?")
        elif card.gbit_per_s != best.gbit_per_s:
            rates = f"{card.gbit_per_s or 0:g} Gb/s, {best.name} {best.gbit_per_s or 0:g}"
            yield Finding("warning", "NCCL_IB_HCA", f"{card.name} has {rates}")


def _interfaces(env: Env, hardware: Hardware) -> Iterator[Finding]:
    name, there = "NCCL_SOCKET_IFNAME", [one.name for one in hardware.interfaces]
    value = env.get(name, "")
    if not value:
        return
    wanted = NameList.parse(value)
    taken = [one for one in hardware.interfaces if wanted.takes(one.name)]
    if not taken:
        usable = [one.name for one in hardware.usable_interfaces]
        yield Finding("error", name, _missing([value], usable))
    elif wanted.exact or len(wanted.names) == 1:  # of several prefixes some may be for other nodes
        yield from _entries(name, wanted, there)
    yield from _usable(name, taken, hardware)


def _usable(name: str, taken: Sequence[Interface], hardware: Hardware) -> Iterator[Finding]:
    usable = [one for one in taken if one in hardware.usable_interfaces]
    if taken and not usable:
        why = "has no address" if taken[0].up else "is down"
        yield Finding("error", name, f"{taken[0].name} {why}")
    elif usable and hardware.to_head and hardware.to_head not in [one.name for one in usable]:
        yield Finding("error", name, f"the way to the head node is {hardware.to_head}")


def _gloo(env: Env, hardware: Hardware) -> Iterator[Finding]:
    there = {one.name: one for one in hardware.interfaces}
    for word in filter(None, env.get("GLOO_SOCKET_IFNAME", "").split(",")):
        if word[0] in "^=":
            continue
        if word not in there:
            usable = [one.name for one in hardware.usable_interfaces]
            yield Finding("error", "GLOO_SOCKET_IFNAME", _missing([word], usable))
        else:
            yield from _usable("GLOO_SOCKET_IFNAME", [there[word]], hardware)


def _threads(env: Env, hardware: Hardware) -> Iterator[Finding]:
    threads, ranks, cores = env.get("OMP_NUM_THREADS", ""), len(hardware.gpus), hardware.cores
    if threads.isdecimal() and ranks and cores and int(threads) * ranks > cores:
        used = f"{ranks} ranks of {threads} threads on {cores} cores"
        yield Finding("warning", "OMP_NUM_THREADS", used)


def _gpu_direct(env: Env, hardware: Hardware) -> Iterator[Finding]:
    name, wanted = "NCCL_NET_GDR_LEVEL", NameList.parse(env.get("NCCL_IB_HCA", "^"))
    level = env.get(name, "")
    cards = [card for card in hardware.cards if card.active and wanted.takes(card.name)]
    if level not in _LEVELS or level == "LOC" or not cards:
        return
    for gpu in hardware.gpus:
        ways = [distance(gpu.path, card.path, (gpu.numa, card.numa)) for card in cards]
        nearest = min((way for way in ways if way), key=_LEVELS.index, default="")
        if nearest and _LEVELS.index(nearest) > _LEVELS.index(level):
            yield Finding(
                "warning", name, f"the card nearest to GPU {gpu.address} is {nearest}, not {level}"
            )


def _peer_memory(env: Env, hardware: Hardware) -> Iterator[Finding]:
    if env.get("NCCL_DMABUF_ENABLE") == "0" and hardware.cards and not hardware.peer_memory:
        why = "without dma-buf GPUDirect RDMA needs the module nvidia_peermem, which is not loaded"
        yield Finding("warning", "NCCL_DMABUF_ENABLE", why)


def _files(env: Env, hardware: Hardware) -> Iterator[Finding]:
    for file, name, value in hardware.files:
        if name in env and env[name] != value:
            yield Finding("note", name, f"{file} has {value}; the environment wins")


RULES: tuple[Callable[[Env, Hardware], Iterator[Finding]], ...] = (
    _cards,
    _interfaces,
    _gloo,
    _threads,
    _gpu_direct,
    _peer_memory,
    _files,
)


def _between_nodes(envs: Mapping[str, Env], nodes: Mapping[str, Hardware]) -> Iterator[Finding]:
    for name in dict.fromkeys(name for env in envs.values() for name in env):
        values = {node: env.get(name, "nothing") for node, env in envs.items()}
        if name not in MAY_DIFFER and len(set(values.values())) > 1:
            yield Finding("error", name, f"nodes differ: {_sides(values)}")
    for what in ("nccl", "torch"):
        found = {node: getattr(hardware, what) for node, hardware in nodes.items()}
        versions = {node: ".".join(map(str, one)) for node, one in found.items() if one}
        if len(set(versions.values())) > 1:
            yield Finding("error", what, f"nodes differ: {_sides(versions)}")
    own = {node: _own_files(hardware, envs[node]) for node, hardware in nodes.items()}
    if len(set(own.values())) > 1:
        yield Finding("warning", "nccl.conf", f"nodes differ: {_sides(own)}")


def _own_files(hardware: Hardware, env: Env) -> str:
    """Settings that NCCL takes of its files, where the environment says nothing."""
    kept = [f"{name}={value}" for _, name, value in hardware.files if name not in env]
    return " ".join(sorted(kept)) or "nothing"


def _sides(values: Mapping[str, str]) -> str:
    """`8 on n[1-3], 4 on n4`."""
    sides: dict[str, list[str]] = {}
    for node, value in values.items():
        sides.setdefault(value, []).append(node)
    return ", ".join(f"{value} on {fold_names(names)}" for value, names in sides.items())
