"""Facts of one node before a launch, printed as JSON; runs there, and imports nothing of soractl.

Its argument is a JSON object: marker, head, port, code, packages.
"""

import hashlib
import json
import os
import platform
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def version(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def head_addresses(head: str) -> list[str]:
    """Addresses that this node knows by the head node's name."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(head, None)})
    except OSError:
        return []


def port_is_free(port: int) -> bool:
    """Nobody listens on a port of this node."""
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


def machine() -> str:
    """The same for two names of one machine: its boot, and its network where it is a container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    network = Path("/proc/self/ns/net").readlink()
    return f"{boot} {network}"


def free_bytes(folder: str) -> int | None:
    """Bytes free where a folder lies; None where there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def digest_of(code: Path) -> str:
    """Short checksum of all Python files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(code.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def facts(question: dict[str, Any]) -> dict[str, Any]:
    """Answers to the question, by the names of `preflight.NodeFacts`."""
    marker = Path(question["marker"])
    runs = marker.parent
    return {
        "marker": marker.read_text() if marker.exists() else None,
        "head_addresses": head_addresses(question["head"]),
        "port_is_free": port_is_free(question["port"]),
        "machine": machine(),
        "can_write": os.access(runs, os.W_OK),
        "free_bytes": free_bytes(str(runs)),
        "shared_memory_free_bytes": free_bytes("/dev/shm"),
        "versions": {
            "python": platform.python_version(),
            "trainer code": digest_of(Path(question["code"])),
            **{name: version(name) for name in question["packages"]},
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(facts(json.loads(sys.argv[1]))) + "\n")
