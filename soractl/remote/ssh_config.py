"""What ~/.ssh/config says about the way to a node."""

import getpass
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soractl.errors import SoractlError
from soractl.remote.nodes import Node

if TYPE_CHECKING:
    import paramiko

DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
INCLUDE_DEPTH = 16  # as OpenSSH


@dataclass(frozen=True)
class SshOptions:
    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    config_file: str = "~/.ssh/config"
    known_hosts_file: str | None = None
    accept_new_host_keys: bool = False
    connect_timeout_s: float = 5.0


@dataclass(frozen=True)
class Route:
    host: str
    port: int
    user: str
    key_name: str  # under which known_hosts has the node
    identity_files: tuple[str, ...]
    identities_only: bool
    known_hosts_files: tuple[str, ...]
    accept_new_host_keys: bool
    proxy_command: str | None = None
    jump: Node | None = None
    jump_before: tuple[str, ...] = ()


class SshConfig:
    """The user's ssh configuration, with the cluster's options laid over it."""

    def __init__(self, options: SshOptions) -> None:
        import paramiko

        self._options = options
        path = Path(options.config_file).expanduser()
        try:
            self._config = paramiko.SSHConfig.from_text(_with_includes(path))
        except paramiko.ConfigParseError as error:
            raise SoractlError(f"{path}: {error}") from None

    def route(self, node: Node, *, jumps: tuple[str, ...] | None = None) -> Route:
        """The way to a node; `jumps` replaces what the configuration says about jump hosts."""
        options = self._options
        found = self._look_up(node.name)
        host = found["hostname"]
        port = node.port or options.port or int(found["port"])
        key_name = found.get("hostkeyalias", host)
        if port != 22 and "hostkeyalias" not in found:
            key_name = f"[{host}]:{port}"
        if jumps is None:
            jumps = _jump_list(found, host)
        return Route(
            host=host,
            port=port,
            user=node.user or options.user or found.get("user") or getpass.getuser(),
            key_name=key_name,
            identity_files=self._identity_files(found),
            identities_only=found.get("identitiesonly", "no").lower() == "yes",
            known_hosts_files=self._known_hosts_files(found),
            accept_new_host_keys=options.accept_new_host_keys
            or found.get("stricthostkeychecking", "") in ("accept-new", "no", "off"),
            proxy_command=None if jumps else found.get("proxycommand"),
            jump=_as_node(jumps[-1]) if jumps else None,
            jump_before=jumps[:-1],
        )

    def _look_up(self, name: str) -> "paramiko.SSHConfigDict":
        import paramiko

        try:
            found = self._config.lookup(name)
            found["port"] = str(int(found.get("port", 22)))
        # Match exec wants a package of its own, CanonicalizeHostname a working resolver.
        except (paramiko.SSHException, ImportError, KeyError, ValueError) as error:
            file = self._options.config_file
            raise SoractlError(f"{file}: what it says about {name} is of no use: {error}") from None
        return found

    def _identity_files(self, found: "paramiko.SSHConfigDict") -> tuple[str, ...]:
        if self._options.identity_file:
            return (self._options.identity_file,)
        return tuple(found.get("identityfile", DEFAULT_KEYS))

    def _known_hosts_files(self, found: "paramiko.SSHConfigDict") -> tuple[str, ...]:
        if self._options.known_hosts_file:
            return (self._options.known_hosts_file,)
        if "userknownhostsfile" in found:
            return (*found["userknownhostsfile"].split(), KNOWN_HOSTS[-1])
        return KNOWN_HOSTS


def _jump_list(found: "paramiko.SSHConfigDict", host: str) -> tuple[str, ...]:
    value = found.get("proxyjump") or "none"
    if value.lower() == "none":
        return ()
    jumps = tuple(value.split(","))
    # "Host *" with a ProxyJump applies to the jump host too, which must not go through itself.
    return () if _as_node(jumps[-1]).name == host else jumps


def _as_node(text: str) -> Node:
    match = re.fullmatch(r"(?:ssh://)?(?:([^@\s]+)@)?([^@:/\s]+)(?::([0-9]+))?/?", text.strip())
    if match is None:
        raise SoractlError(f"ProxyJump {text!r}: not [user@]host[:port]")
    return Node(match[2], user=match[1], port=int(match[3]) if match[3] else None)


def _with_includes(path: Path, depth: int = 0) -> str:
    """The text of a configuration with its included files in place, which paramiko ignores."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise SoractlError(f"{path}: {error}") from None
    text: list[str] = []
    section = "Host *"
    for line in lines:
        words = line.replace("=", " ", 1).split()
        keyword = words[0].lower() if words else ""
        if keyword in ("host", "match"):
            section = line
        if keyword != "include":
            text.append(line)
        elif depth < INCLUDE_DEPTH:
            for pattern in words[1:]:
                text += _included(pattern.strip('"'), depth)
            text.append(section)
    return "\n".join(text)


def _included(pattern: str, depth: int) -> list[str]:
    path = Path(pattern).expanduser()
    folder = Path("/") if path.is_absolute() else Path("~/.ssh").expanduser()
    names = sorted(folder.glob(str(path).lstrip("/")))
    return [_with_includes(name, depth + 1) for name in names]
