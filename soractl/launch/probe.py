"""Facts of one node before a launch, printed as lines; runs there, and imports nothing of soractl.

`main` gets a question: marker, head, port, code, packages, and optionally names, meeting, weights,
table, clips, features, cache, wandb. It prints KIND, ITEM, FIELD and VALUE with tabs between, as
`health/probe.sh` does. All nodes run it at once: what starts slowly (site, json, re, pathlib,
typing; socket, threading and hashlib, whose C modules it takes) is left out.
"""

from __future__ import annotations

import _socket
import _thread
import os
import select
import sys
import time
from zlib import crc32

NAMES_S = 1.5  # for all names together; a name server that is gone takes far longer
MEET_S = 1.0
SHOWN = 3
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from hashlib import sha256
    from typing import Any
else:
    for module in ("_sha2", "_sha256", "hashlib"):  # hashlib loads OpenSSL
        try:
            sha256 = __import__(module).sha256
            break
        except ImportError:
            continue

Fact = tuple[str, str, str, object]


def distributions(folders: list[str]) -> dict[str, str]:
    """Versions of what is installed, by name, as the folders of packages say it."""
    found: dict[str, str] = {}
    for folder in folders:
        if os.path.isdir(folder):
            for entry in sorted(os.listdir(folder)):
                if entry.endswith((".dist-info", ".egg-info")):
                    name, _, version = entry.rpartition(".")[0].partition("-")
                    version = version.partition("-py3")[0]
                    found.setdefault(name.lower().replace("-", "_"), version)
    return found


def package_folders(executable: str) -> list[str]:
    """Folders of packages of a Python, the ones of its own environment first."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(executable)))
    own = [os.path.join(prefix, lib, version, "site-packages") for lib in ("lib", "lib64")]
    if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
        return own
    user = os.path.expanduser(f"~/.local/lib/{version}/site-packages")
    debian = [f"/usr/local/lib/{version}/dist-packages", "/usr/lib/python3/dist-packages"]
    return [user, *own, *(debian if prefix == "/usr" else [])]


def versions(question: dict[str, Any], executable: str) -> Iterator[Fact]:
    """Versions that must be the same on all nodes, and a digest of all packages."""
    installed = distributions(package_folders(executable))
    nccl = [name for name in installed if name.startswith("nvidia_nccl_")]
    listed = "\n".join(f"{name} {version}" for name, version in sorted(installed.items()))
    found = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "trainer code": digest_of(question["code"]),
        **{name: installed.get(name.lower().replace("-", "_")) for name in question["packages"]},
        "NCCL": installed[nccl[0]] if nccl else "none",
    }
    for name, version in found.items():
        yield "version", name, "version", version or "not installed"
    yield (
        "packages",
        "",
        "digest",
        f"{len(installed)} packages with digest {digest(listed.encode())}",
    )


def environment(executable: str) -> str:
    """The kind of Python environment."""
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(executable)))
    if os.path.exists(os.path.join(prefix, "pyvenv.cfg")):
        return "venv"
    return "conda" if os.path.isdir(os.path.join(prefix, "conda-meta")) else "system"


def addresses(name: str) -> list[str]:
    """Addresses that this node knows by a name."""
    plain = name.encode() if name.isascii() else name  # text loads the tables of IDNA
    try:
        return sorted({str(found[4][0]) for found in _socket.getaddrinfo(plain, None)})
    except OSError:
        return []


def resolved(names: list[str]) -> dict[str, list[str]]:
    """Addresses by name; a name that takes too long is not there."""
    found: dict[str, list[str]] = {}

    def resolve(name: str, waited_for: _thread.LockType) -> None:
        found[name] = addresses(name)
        waited_for.release()

    begun = [_thread.allocate_lock() for _ in names]
    for name, lock in zip(names, begun, strict=True):
        lock.acquire()
        _thread.start_new_thread(resolve, (name, lock))
    until = time.monotonic() + NAMES_S
    for lock in begun:
        lock.acquire(timeout=max(0.0, until - time.monotonic()))
    return {name: found.get(name, []) for name in names}


def reached(where: dict[str, str], port: int) -> dict[str, bool]:
    """Names whose machine answers at an address, be it that nobody listens there."""
    waiting = {}
    for name, address in where.items():
        family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
        try:
            door = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
            door.connect_ex((address, port))
            waiting[door] = name
        except OSError:
            continue
    found = dict.fromkeys(where, False)
    until = time.monotonic() + MEET_S
    while waiting and time.monotonic() < until:
        _, ready, _ = select.select([], list(waiting), [], max(0.0, until - time.monotonic()))
        for door in ready:
            code = door.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            found[waiting.pop(door)] = code in (0, 111)  # connected, or refused by that machine
            door.close()
    for door in waiting:
        door.close()
    return found


def names(question: dict[str, Any]) -> Iterator[Fact]:
    """Names of nodes, their addresses here, and if they answer."""
    asked = question.get("names", [])
    own = _socket.gethostname()
    found = resolved(list(dict.fromkeys([*asked, own])))
    ways = {name: found[name][0] for name in asked if found[name]}
    met = reached(ways, question["meeting"]) if asked else {}
    for name in asked:
        yield "name", name, "addresses", " ".join(found[name]) or "none"
        if name in met:
            yield "name", name, "answers", "yes" if met[name] else "no"
    if asked:
        yield "launch", "", "own name", own
        yield "launch", "", "own addresses", " ".join(found[own]) or "none"


def port_is_free(port: int) -> bool:
    """Nobody listens on a port of this node."""
    door = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    door.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    try:
        door.bind(("", port))
        door.listen()
    except OSError:
        return False
    finally:
        door.close()
    return True


def machine() -> str:
    """The same for two names of one machine: its boot, and its network where it is a container."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/net')}"


def free_bytes(folder: str) -> object:
    """Bytes free where a folder lies; `?` where there is no such folder."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return "?"
    return found.f_bavail * found.f_frsize


def digest(text: bytes) -> str:
    """A short checksum."""
    return sha256(text).hexdigest()[:12]


def digest_of(code: str) -> str:
    """Checksum of all Python files below a folder, against what differs by accident."""
    found = 0
    for folder, inner, files in os.walk(code):
        inner.sort()
        for file in sorted(files):
            if file.endswith(".py"):
                with open(os.path.join(folder, file), "rb") as opened:
                    found = crc32(opened.read(), found)
    return f"{found:08x}"


def read(path: str) -> str:
    """Text of a file; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def find_weights(name: str, cache: str) -> str:
    """The path of a file, a folder, or a repository of the Hugging Face cache; empty: not here."""
    path = os.path.expanduser(name)
    if os.path.exists(path):
        return path
    repository = os.path.join(os.path.expanduser(cache), "models--" + name.replace("/", "--"))
    revision = read(os.path.join(repository, "refs/main")).strip()
    folder = os.path.join(repository, "snapshots", revision)
    return folder if revision and os.path.isdir(folder) else ""


def files_of(path: str) -> dict[str, int]:
    """Sizes of a file, or of all files below a folder by their names in it; -1: a dead link."""
    if not os.path.isdir(path):
        return {os.path.basename(path): size_of(path)}
    found = {}
    for folder, _, files in os.walk(path):
        for file in files:
            whole = os.path.join(folder, file)
            found[os.path.relpath(whole, path)] = size_of(whole)
    return found


def size_of(path: str) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def fault_in(path: str, sizes: dict[str, int]) -> str:
    """The first thing that is not whole; empty where nothing is."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    faults = (fault_of(folder, name, sizes) for name in sorted(sizes))
    return next(filter(None, faults), "" if sizes else "the folder is empty")


def fault_of(folder: str, name: str, sizes: dict[str, int]) -> str:
    """Fault of a file, or of what it lists; whatever is in it, the node's facts go on."""
    try:
        return lack_of(folder, name, sizes)
    except OSError:
        return f"{name} cannot be read"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"{name} is damaged"


def lack_of(folder: str, name: str, sizes: dict[str, int]) -> str:
    """The same for a file that can be read and has the form of its kind."""
    size = sizes[name]
    if size <= 0 and name.endswith(WEIGHTS):
        return f"{name} {'is empty' if size == 0 else 'leads nowhere'}"
    file = os.path.join(folder, name)
    if name.endswith(".safetensors") and (whole := safetensors_size(file)) > size:
        return f"{name} has {size} of {whole} bytes"
    if name.endswith(".index.json"):
        shards = set(parsed(file).get("weight_map", {}).values())
        lost = sorted(shard for shard in shards if beside(name, shard) not in sizes)
        return f"{lost[0]} is missing" if lost else ""
    if os.path.basename(name) == "checkpoint.json":
        listed = parsed(file).get("files", {})
        wanted = {beside(name, inner): facts["bytes"] for inner, facts in listed.items()}
        short = sorted(inner for inner, size in wanted.items() if sizes.get(inner, 0) != size)
        return f"{short[0]} is not whole" if short else ""
    return ""


def parsed(file: str) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is none."""
    import json

    try:
        found = json.loads(read(file))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def beside(name: str, other: str) -> str:
    """A file's name in the folder of another one."""
    return os.path.join(os.path.dirname(name), other)


def safetensors_size(path: str) -> int:
    """Bytes that a file must have by its own header."""
    import json

    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > 100_000_000:
            return length
        text = file.read(length)
    if len(text) < length:
        return 8 + length
    header = json.loads(text)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)


def stage(question: dict[str, Any]) -> Iterator[Fact]:
    """Weights, table, clips and features that a stage needs."""
    for name in question.get("weights", ()):
        path = find_weights(name, question["cache"])
        yield "weights", name, "there", "yes" if path else "no"
        if path:
            sizes = files_of(path)
            yield "weights", name, "whole", fault_in(path, sizes) or "yes"
            yield "weights", name, "files", f"{len(sizes)} of {sum(sizes.values())} bytes"
    if table := question.get("table"):
        size = size_of(table)
        yield "data", table, "size", "none" if size < 0 else f"{size} bytes"
        lost = [clip for clip in question["clips"] if size_of(clip) <= 0]
        asked, shown = len(question["clips"]), " ".join(lost[:SHOWN])
        yield "data", table, "clips", f"{len(lost)} of {asked}: {shown}" if lost else "all"
    if features := question.get("features"):
        yield "features", features, "there", "yes" if os.path.isdir(features) else "no"


def wandb(host: str) -> str:
    """The place of a login; the key itself is not read into anything."""
    file = os.environ.get("NETRC", os.path.expanduser("~/.netrc"))
    words = read(file).split()
    machines = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "machine"]
    return "yes" if host in machines else "no"


def facts(question: dict[str, Any], executable: str = sys.executable) -> Iterator[Fact]:
    """All that is asked for."""
    marker, runs = question["marker"], os.path.dirname(question["marker"])
    head = resolved([question["head"]])[question["head"]]
    yield "launch", "", "marker", read(marker) or "none"
    yield "launch", "", "head addresses", " ".join(head) or "none"
    yield "launch", "", "port", "free" if port_is_free(question["port"]) else "taken"
    yield "launch", "", "machine", machine()
    yield "launch", "", "writes", "yes" if os.access(runs, os.W_OK) else "no"
    yield "launch", "", "free bytes", free_bytes(runs)
    yield "launch", "", "shared memory", free_bytes("/dev/shm")
    yield "launch", "", "environment", environment(executable)
    yield from versions(question, executable)
    yield from names(question)
    yield from stage(question)
    if "wandb" in question:
        yield "wandb", "", "login", wandb(question["wandb"])


def main(question: dict[str, Any]) -> None:
    """Prints all of it."""
    for fact in facts(question):
        sys.stdout.write("\t".join(" ".join(str(part).split()) for part in fact) + "\n")
