"""Environment that fits the nodes: the fastest fabric's cards, the way to the head. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soractl.nccl.hardware import ETHERNET, IB, Card, Hardware, distance
from soractl.remote.folding import fold_names

Env = dict[str, str | int]


@dataclass(frozen=True)
class Proposal:
    """Settings for all nodes, others for single ones, and reasons."""

    common: Env
    of_nodes: Mapping[str, Env]
    reasons: tuple[str, ...] = ()


def detect(nodes: Mapping[str, Hardware]) -> Proposal:
    """The proposal for nodes by name, the head node first."""
    head = next(iter(nodes))
    found = {name: _environment(hardware, name == head, nodes) for name, hardware in nodes.items()}
    common = {
        variable: value
        for variable, value in _most(list(found.values())).items()
        if all(variable in env for env in found.values())
    }
    differing = {
        name: {key: value for key, value in env.items() if common.get(key) != value}
        for name, env in found.items()
    }
    of_nodes = {name: env for name, env in differing.items() if env}
    return Proposal(common, of_nodes, tuple(_reasons(nodes)))


def toml(proposal: Proposal) -> list[str]:
    """Lines of the cluster's file."""
    lines = ["[env]", *(_line(name, value) for name, value in proposal.common.items())]
    for node, env in proposal.of_nodes.items():
        lines += ["", f'[env."{node}"]', *(_line(name, value) for name, value in env.items())]
    return lines


def chosen_cards(hardware: Hardware) -> list[Card]:
    """Active ports of the fabric: InfiniBand if there is any, of the highest rate.

    Never by number: which card is for storage differs from machine to machine.
    """
    active = [card for card in hardware.cards if card.active and card.gbit_per_s]
    fabric = [card for card in active if card.link_layer == IB] or _roce(hardware, active)
    best = max((card.gbit_per_s or 0 for card in fabric), default=0)
    return [card for card in fabric if card.gbit_per_s == best]


def _roce(hardware: Hardware, active: Sequence[Card]) -> list[Card]:
    """Ethernet ports for RoCE: not the one to the head node, unless there is no other."""
    ports = [card for card in active if card.link_layer == ETHERNET]
    other = [card for card in ports if hardware.to_head not in card.interfaces]
    return other or ports


def _environment(hardware: Hardware, is_head: bool, nodes: Mapping[str, Hardware]) -> Env:
    env: Env = {}
    cards = chosen_cards(hardware)
    if cards:
        env["NCCL_IB_HCA"] = "=" + ",".join(dict.fromkeys(card.name for card in cards))
    if level := gdr_level(hardware, cards):
        env["NCCL_NET_GDR_LEVEL"] = level
    if interface := way_to_the_others(hardware, is_head, nodes):
        env["NCCL_SOCKET_IFNAME"] = interface
        env["GLOO_SOCKET_IFNAME"] = interface
    env["NCCL_DEBUG"] = "WARN"
    if hardware.cores and hardware.gpus:
        env["OMP_NUM_THREADS"] = max(1, hardware.cores // len(hardware.gpus))
    return env


def way_to_the_others(
    hardware: Hardware, is_head: bool, nodes: Mapping[str, Hardware]
) -> str | None:
    """The interface to the head node; on that one, the one that most others use."""
    if hardware.to_head or not is_head:
        return hardware.to_head
    usable = [interface.name for interface in hardware.usable_interfaces]
    others = Counter(other.to_head for other in nodes.values() if other.to_head in usable)
    if others:
        return others.most_common(1)[0][0]
    physical = [one.name for one in hardware.usable_interfaces if one.physical]
    found = physical or usable
    return found[0] if found and (hardware.knows_addresses or len(found) == 1) else None


def gdr_level(hardware: Hardware, cards: Sequence[Card]) -> str:
    """The farthest way from a GPU to the card nearest to it, where that is within PCI switches."""
    order = ("PIX", "PXB", "PHB", "SYS")
    nearest = []
    for gpu in hardware.gpus:
        ways = [distance(gpu.path, card.path, (gpu.numa, card.numa)) for card in cards]
        if not ways or "" in ways:
            return ""
        nearest.append(min(ways, key=order.index))
    farthest = max(nearest, key=order.index, default="")
    return farthest if farthest in ("PIX", "PXB") else ""


def _most(found: Sequence[Env]) -> Env:
    """Each variable with the value that most nodes have."""
    names = dict.fromkeys(name for env in found for name in env)
    return {
        name: Counter(env[name] for env in found if name in env).most_common(1)[0][0]
        for name in names
    }


def _reasons(nodes: Mapping[str, Hardware]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for name, hardware in nodes.items():
        cards = chosen_cards(hardware)
        left = [card for card in hardware.cards if card not in cards]
        words = [f"{card.name} ({_why_not(card)})" for card in left]
        why = f"left out: {', '.join(words)}" if words else ""
        if not hardware.cards:
            why = "no card for InfiniBand or RoCE: NCCL goes by TCP"
        elif not cards:
            why = "no active card for InfiniBand or RoCE: NCCL goes by TCP"
        if why:
            reasons.setdefault(why, []).append(name)
    return [f"{fold_names(names)}: {why}" for why, names in reasons.items()]


def _why_not(card: Card) -> str:
    if not card.active:
        return card.state
    return f"{card.link_layer}, {card.gbit_per_s or 0:g} Gb/s"


def _line(name: str, value: str | int) -> str:
    return f"{name} = {value}" if isinstance(value, int) else f'{name} = "{value}"'
