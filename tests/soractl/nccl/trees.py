"""Made trees of /sys and /etc with the parts that hardware.sh reads, and what it prints of them."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from soractl.nccl.hardware import Hardware, parse
from soractl.remote.scripts import script

SOCKETS = ("pci0000:00", "pci0000:80")


@dataclass
class Tree:
    """A node's hardware, part by part; each method adds one."""

    root: Path
    routes: str = ""
    addresses: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def device(self, socket: int, switch: int, slot: int) -> str:
        """A device behind a PCI switch of a socket: its path below /sys/devices."""
        bus = f"0000:{switch:02x}"
        address = f"{bus[:-2]}{switch + 2 + slot:02x}:00.0"
        path = f"sys/devices/{SOCKETS[socket]}/{bus}:01.0/{bus}:02.0/{bus}:{slot:02x}.1/{address}"
        self.put(f"{path}/numa_node", str(socket))
        return path

    def gpu(self, socket: int, switch: int, slot: int = 0) -> None:
        path = self.device(socket, switch, slot)
        self.put(f"{path}/vendor", "0x10de")
        self.put(f"{path}/class", "0x030200")
        self._link(f"sys/bus/pci/devices/{Path(path).name}", path)

    def card(
        self,
        name: str,
        gbit_per_s: int = 400,
        layer: str = "InfiniBand",
        state: str = "4: ACTIVE",
        at: tuple[int, int, int] | None = None,
        interface: str = "",
    ) -> None:
        port = f"sys/class/infiniband/{name}/ports/1"
        self.put(f"{port}/state", state)
        self.put(f"{port}/rate", f"{gbit_per_s} Gb/sec (4X NDR)")
        self.put(f"{port}/link_layer", layer)
        if at:
            path = self.device(*at)
            self._link(f"sys/class/infiniband/{name}/device", path)
            if interface:
                (self.root / path / "net" / interface).mkdir(parents=True)

    def interface(self, name: str, address: str = "", state: str = "up") -> None:
        self.put(f"sys/class/net/{name}/operstate", state)
        if name != "lo":
            self.put(f"sys/class/net/{name}/device/vendor", "0x15b3")
        if address:
            self.addresses[name] = address

    def hardware(self) -> Hardware:
        """What the probe finds."""
        lines = [
            f"1: {name} inet {address} scope global" for name, address in self.addresses.items()
        ]
        ip = f'#!/bin/sh\ncase "$*" in *route*) echo "{self.routes}" ;; *)\n'
        ip += "".join(f'[ "$5" = {line.split()[1]} ] && echo "{line}"\n' for line in lines)
        self.put("bin/ip", ip + "true ;;\nesac")
        (self.root / "bin/ip").chmod(0o755)
        done = subprocess.run(
            ["sh", "-s", "--", str(self.root), "head", str(self.root / "env/bin")],
            input=script("soractl.nccl", "hardware.sh"),
            env={"PATH": f"{self.root}/bin:/usr/bin:/bin", "HOME": str(self.root / "home")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return parse(done.stdout)

    def _link(self, name: str, path: str) -> None:
        link = self.root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(self.root / path)


def tutorial(root: Path, address: str = "10.0.0.2/24", head: bool = False) -> Tree:
    """A node of the tutorial's kind: 8 GPUs, each with a card on its switch; mlx5_0 for storage."""
    tree = Tree(root, "" if head else "10.0.0.1 dev eno1 src 10.0.0.2 uid 0")
    tree.card("mlx5_0", 200, at=(0, 0x50, 0))
    for number in range(8):
        place = (number // 4, 0x10 + 4 * number + 0x20 * (number // 4))
        tree.gpu(*place)
        tree.card(f"mlx5_{number + 1}", at=(*place, 1))
    tree.card("mlx5_9", 100, "Ethernet", at=(1, 0xA0, 0), interface="eno2")
    tree.interface("lo", "127.0.0.1/8", "unknown")
    tree.interface("eno1", address)
    tree.interface("eno2", state="down")
    tree.interface("docker0", "172.17.0.1/16", "down")
    tree.put("sys/devices/system/cpu/online", "0-127")
    return tree


def gpud_h100(root: Path) -> Tree:
    """Facts of leptonai/gpud's sys-class-infiniband-h100.0 (@4a8de33): no links to devices."""
    tree = Tree(root, "10.0.0.1 dev bond0 src 10.0.0.2 uid 0")
    for number in (0, 1, *range(4, 10)):
        tree.card(f"mlx5_{number}")
    tree.card("mlx5_bond_0", 200, "Ethernet")
    tree.interface("bond0", "10.0.0.2/24")
    return tree


def ibstat_h100(root: Path) -> Tree:
    """Facts of gpud's ibstat.47.0.h100.some.down.0: four Ethernet cards, three of them down."""
    tree = Tree(root, "10.0.0.1 dev eth0 src 10.0.0.2 uid 0")
    for number in (0, 3, 4, 5, 6, 9, 10, 11):
        tree.card(f"mlx5_{number}")
    tree.card("mlx5_1", 100, "Ethernet")
    for number in (2, 7, 8):
        tree.card(f"mlx5_{number}", 40, "Ethernet", "1: DOWN")
    tree.interface("eth0", "10.0.0.2/24")
    return tree
