"""Nodes of a command: from a host file, a Slurm node list, or this machine alone."""

import difflib
import ipaddress
import itertools
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soractl.errors import SoractlError

HOSTFILE_FOLDER = Path("hostfiles")
DEFAULT_HOSTFILE = HOSTFILE_FOLDER / "nodes.txt"
GRAMMAR = (
    "a line is [user@]host[:port] [slots=N] [spare=true|false]; "
    "host may hold ranges such as node-[001-024], or be an address such as [fd77::11]; "
    "# starts a comment"
)
MOST_NODES = 10_000

_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]*)@)?"
    r"(?:\[?(?P<ipv6>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*(?:%[A-Za-z0-9_.-]+)?)(?:\]|$)|"
    r"(?P<name>(?:[A-Za-z0-9]|\[[0-9,-]+\])(?:[A-Za-z0-9._-]|\[[0-9,-]+\])*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True)
class Node:
    """A machine as a host file or ssh's configuration names it.

    >>> parse_node_list("ana@n1:2222,[fd77::11]")[0]
    Node(name='n1', user='ana', port=2222, slots=None, spare=False, local=False)
    """

    name: str
    user: str | None = None
    port: int | None = None
    slots: int | None = None
    spare: bool = False
    local: bool = False


@dataclass(frozen=True)
class NodeSource:
    """Nodes, and where they are from.

    >>> find_nodes("n[1-2],", environ={}).origin
    'n[1-2]'
    """

    nodes: tuple[Node, ...]
    origin: str
    hostfile: Path | None = None


def this_machine() -> Node:
    """The machine this runs on, which needs no ssh."""
    return Node(socket.gethostname(), local=True)


def find_nodes(
    argument: str | None, *, run_nodes: Sequence[Node] = (), environ: Mapping[str, str]
) -> NodeSource:
    """Nodes of a command: argument, SORACTL_HOSTFILE, the run's, the default file, Slurm, here."""
    if argument:
        return _named(argument, "")
    if environ.get("SORACTL_HOSTFILE"):
        return _named(environ["SORACTL_HOSTFILE"], " (SORACTL_HOSTFILE)")
    if run_nodes:
        return NodeSource(tuple(run_nodes), "the run's own nodes")
    if DEFAULT_HOSTFILE.exists():
        nodes = read_hostfile(DEFAULT_HOSTFILE)
        return NodeSource(tuple(nodes), f"{DEFAULT_HOSTFILE} (default)", DEFAULT_HOSTFILE)
    if environ.get("SLURM_JOB_NODELIST"):
        nodes = parse_node_list(environ["SLURM_JOB_NODELIST"])
        return NodeSource(tuple(nodes), f"Slurm job {environ.get('SLURM_JOB_ID', '?')}")
    return NodeSource((this_machine(),), "this machine")


def read_hostfile(path: Path) -> list[Node]:
    """The nodes of a host file in its order, the head node first; SoractlError for any fault."""
    nodes: list[Node] = []
    line_of: dict[tuple[str, int | None], int] = {}
    faults: list[str] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.partition("#")[0].split()
        try:
            for node in _parse_line(words) if words else []:
                key = (node.name, node.port)
                if key in line_of:
                    raise ValueError(f"{node.name} stands on line {line_of[key]} already")
                line_of[key] = number
                nodes.append(node)
        except ValueError as error:
            faults.append(f"{path}:{number}: {line.strip()[:80]!r}: {error}")
    if faults:
        more = f" (and {len(faults) - 1} more faulty lines)" if len(faults) > 1 else ""
        raise SoractlError(faults[0] + more, hint=GRAMMAR)
    if not nodes:
        raise SoractlError(f"{path}: names no node", hint=GRAMMAR)
    return nodes


def parse_node_list(text: str) -> list[Node]:
    """Nodes of a comma-separated list such as `node-[001-003,007],gpu-a1`, in its order."""
    try:
        nodes = [node for word in _split_list(text) for node in _parse_line([word])]
    except ValueError as error:
        raise SoractlError(f"{text!r}: {error}", hint=GRAMMAR) from None
    if not nodes:
        raise SoractlError(f"{text!r} names no node", hint=GRAMMAR)
    return list(dict.fromkeys(nodes))


def address(node: Node) -> str:
    """A node as `parse_node_list` reads it.

    >>> address(Node("fd77::11", user="ana", port=2222))
    'ana@[fd77::11]:2222'
    """
    name = f"[{node.name}]" if ":" in node.name else node.name
    user = f"{node.user}@" if node.user else ""
    return f"{user}{name}{f':{node.port}' if node.port else ''}"


def is_hostfile(name: str) -> bool:
    """True if this names a host file that is there, and no program."""
    there = [path for path in _candidates(name) if path.is_file()]
    if not there or os.access(there[0], os.X_OK):
        return False
    try:
        return bool(read_hostfile(there[0]))
    except SoractlError:
        return False


def _candidates(name: str) -> list[Path]:
    named = Path(name).expanduser()
    return [named] if "/" in name else [named, HOSTFILE_FOLDER / name]


def _named(name: str, suffix: str) -> NodeSource:
    candidates = _candidates(name)
    for path in candidates:
        if path.exists():
            return NodeSource(tuple(read_hostfile(path)), f"{path}{suffix}", path)
    if re.search(r"[\[,@]", name):
        return NodeSource(tuple(parse_node_list(name)), f"{name.strip(', ')}{suffix}")
    looked = " and ".join(str(path) for path in candidates)
    raise SoractlError(f"no host file {name}{suffix}: looked for {looked}", hint=_other(name))


def _other(name: str) -> str:
    there = sorted(path.name for path in HOSTFILE_FOLDER.glob("*.txt"))
    close = difflib.get_close_matches(Path(name).name, there, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if _ADDRESS.fullmatch(name) and not name.endswith(".txt"):
        return f"a node that stands in no file is named with a comma: `{name},`"
    if there:
        return f"{HOSTFILE_FOLDER}/ has: {', '.join(there)}"
    return f"write one node a line into {DEFAULT_HOSTFILE}, the head node first"


def _text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SoractlError(
            f"{path}: not a text file: byte {error.object[error.start]:#04x} at {error.start}",
            hint=GRAMMAR,
        ) from None
    except OSError as error:
        raise SoractlError(f"{path}: {error.strerror}") from None
    return text


def _parse_line(words: Sequence[str]) -> Iterator[Node]:
    address = _ADDRESS.fullmatch(words[0])
    if address is None:
        raise ValueError(f"{words[0]!r} is not a host")
    options = dict(_parse_option(word) for word in words[1:])
    port = int(address["port"]) if address["port"] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"port {port} is not between 1 and 65535")
    for name in [_ipv6(address["ipv6"])] if address["ipv6"] else _expand(address["name"]):
        yield Node(
            name,
            user=address["user"],
            port=port,
            slots=options.get("slots"),
            spare=bool(options.get("spare", False)),
            local=address["user"] is None and port is None and name in _own_names(),
        )


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ipaddress.AddressValueError:
        raise ValueError(f"{text} is not an address") from None


def _parse_option(word: str) -> tuple[str, int]:
    key, _, value = word.partition("=")
    if key == "slots" and re.fullmatch(r"[1-9][0-9]{0,3}", value):
        return key, int(value)
    if key == "spare" and value in ("true", "false"):
        return key, int(value == "true")
    raise ValueError(f"{word!r} is not an option")


def _own_names() -> set[str]:
    name = socket.gethostname()
    return {"localhost", "127.0.0.1", "::1", name, name.partition(".")[0]}


def _split_list(text: str) -> list[str]:
    return [word for word in re.split(r",(?![^\[]*\])", text) if word]


# ClusterShell's NodeSet would sort: node-[007,001-006] must keep 007 as the head.
def _expand(name: str) -> list[str]:
    parts = re.split(r"\[([0-9,-]+)\]", name)
    choices = [_numbers(part) if i % 2 else [part] for i, part in enumerate(parts)]
    names = ["".join(pick) for pick in itertools.islice(itertools.product(*choices), MOST_NODES)]
    if len(names) == MOST_NODES:
        raise ValueError(f"{name} means {MOST_NODES} nodes or more")
    return names


def _numbers(ranges: str) -> list[str]:
    numbers: list[str] = []
    for part in ranges.split(","):
        bounds = _RANGE.fullmatch(part)
        if bounds is None:
            raise ValueError(f"[{ranges}] is not a range")
        low, high = bounds[1], bounds[2] or bounds[1]
        if int(high) < int(low) or int(high) - int(low) >= MOST_NODES:
            raise ValueError(f"[{part}] is not a range of less than {MOST_NODES} nodes")
        numbers += [f"{i:0{len(low)}d}" for i in range(int(low), int(high) + 1)]
    return numbers
