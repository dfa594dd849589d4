"""The answer of `ssh -G NODE`, the one reader of ssh's configuration, as a route for paramiko."""

import getpass
import os
import pwd
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soractl.errors import SoractlError
from soractl.remote.captured import Captured
from soractl.remote.deadline import Deadline, DeadlinePassed
from soractl.remote.local import Processes
from soractl.remote.nodes import Node
from soractl.remote.requests import Request
from soractl.remote.ssh_command import (
    NotServed,
    SshFailure,
    SshOptions,
    arguments,
    connect_timeout_s,
    variables_sent,
)
from soractl.terminal.text import span

Answer = Mapping[str, list[str]]
"""Values by lower-case keyword, in ssh's order: `{"hostname": ["10.77.0.11"], ...}`."""

# Lines that may differ from ssh's defaults: those of which a Route is made, ...
_USED = """host user hostname port addressfamily hostkeyalias identityfile identitiesonly
    userknownhostsfile globalknownhostsfile stricthostkeychecking connecttimeout proxycommand
    proxyjump identityagent controlpath sendenv"""
# ... and those that change nothing of what a command answers, or only how ssh comes to the above.
_WITHOUT_EFFECT = """addkeystoagent batchmode canonicaldomains canonicalizefallbacklocal
    canonicalizehostname canonicalizemaxdots canonicalizepermittedcnames
    clearallforwardings compression connectionattempts controlmaster controlpersist
    dynamicforward enableescapecommandline escapechar exitonforwardfailure fingerprinthash
    forkafterauthentication forwardx11 forwardx11timeout forwardx11trusted gatewayports
    gssapiauthentication gssapidelegatecredentials gssapikeyexchange gssapirenewalforcesrekey
    gssapitrustdns gssapikexalgorithms gssapiclientidentity gssapiserveridentity hashknownhosts
    ignoreunknown ipqos kbdinteractiveauthentication localforward loglevel logverbose
    numberofpasswordprompts passwordauthentication permitremoteopen protocol rekeylimit
    remotecommand remoteforward requesttty serveralivecountmax serveraliveinterval
    sessiontype stdinnull streamlocalbindmask streamlocalbindunlink syslogfacility tag
    tcpkeepalive tunneldevice updatehostkeys visualhostkey warnweakcrypto xauthlocation"""
SERVED = frozenset(f"{_USED} {_WITHOUT_EFFECT}".split())

_JUMP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<address>[^]]+)\]|(?P<name>[^:@\[\]]+))"
    r"(?::(?P<port>[0-9]+))?/?"
)
_SUMMARY = re.compile(r"terminating, |^Pseudo-terminal|port 65535$|^kex_exchange_identification")
_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


@dataclass(frozen=True)
class Route:
    """The way to one node as paramiko goes it; all names are expanded.

    >>> Route("10.77.0.11", 2222, "ana", "n1").key_name
    'n1'
    """

    host: str
    port: int
    user: str
    key_name: str  # under which known_hosts has the node
    identity_files: tuple[Path, ...] = ()
    configured_keys: bool = False  # the identity files are not ssh's default ones
    identities_only: bool = False
    use_agent: bool = True
    known_hosts_files: tuple[Path, ...] = ()
    accept_new_host_keys: bool = False
    family: socket.AddressFamily = socket.AF_UNSPEC
    connect_timeout_s: float = 5.0
    proxy_command: str | None = None
    jumps: tuple[Node, ...] = ()


def ask_ssh(argv: list[str], processes: Processes, deadline: Deadline) -> Answer:
    """Output of `ssh -G`; SshFailure in ssh's words, also when it hangs (`Match exec`)."""
    captured = Captured()
    try:
        processes.run(Request(tuple(argv)), captured, deadline)
    except DeadlinePassed:
        raise SshFailure(
            f"no answer from `ssh -G {argv[-1]}` within {span(deadline.seconds)}"
        ) from None
    if captured.exit_code != 0:
        raise SshFailure(last_words(captured.stderr.text) or f"ssh ended with {captured.exit_code}")
    return parse(os.fsdecode(bytes(captured.stdout.kept)))


def configuration(
    node: Node, options: SshOptions, processes: Processes, deadline: Deadline
) -> Answer:
    """ssh's configuration of a node, with the cluster's options laid over it."""
    return ask_ssh([*arguments(node, options), "-G", "--", node.name], processes, deadline)


def defaults(processes: Processes, deadline: Deadline) -> Answer:
    """ssh's configuration where no file says anything."""
    return ask_ssh(["ssh", "-F", "/dev/null", "-G", "--", "default"], processes, deadline)


def need_ssh() -> None:
    """SoractlError where no ssh client is installed."""
    if shutil.which("ssh") is None:
        raise SoractlError("no `ssh` on this machine", hint="install OpenSSH's client")


def parse(text: str) -> Answer:
    """Lines `keyword value` to values by keyword."""
    answer: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        answer.setdefault(keyword.lower(), []).append(value)
    return answer


def last_words(stderr: str) -> str:
    """The line of ssh's errors that says why: the last, but for its summaries."""
    lines = [line.strip().removeprefix("ssh: ") for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if not _SUMMARY.search(line)]
    return (telling or lines or [""])[-1]


def route(node: Node, answer: Answer, usual: Answer, options: SshOptions) -> Route:
    """The route of an answer; NotServed names what paramiko does not do or cannot know.

    SshFailure for an answer that is none.
    """
    for key in sorted(answer.keys() | usual.keys()):
        if answer.get(key) != usual.get(key) and key not in SERVED:
            raise NotServed(f"{key} {' '.join(answer.get(key, ['none']))}")
    if sent := variables_sent(answer):
        raise NotServed(f"sendenv {sent[0]}")
    one = {key: values[0] for key, values in answer.items()}
    if "hostname" not in one or not one.get("port", "").isdecimal():
        raise SshFailure(f"`ssh -G {node.name}` prints no host name and port")
    host, port, user = one["hostname"], int(one["port"]), one.get("user") or getpass.getuser()
    alias = one.get("hostkeyalias", "none")
    agent = one.get("identityagent", "SSH_AUTH_SOCK")
    if agent not in ("SSH_AUTH_SOCK", "none"):
        raise NotServed(f"identityagent {agent}")
    tokens = {"%": "%", "d": home(), "h": host, "i": str(os.getuid()), "n": node.name}
    tokens |= {"p": str(port), "r": user, "u": getpass.getuser()}
    proxy = one.get("proxycommand", "none")
    checking = one.get("stricthostkeychecking", "ask")
    return Route(
        host=host,
        port=port,
        user=user,
        key_name=alias if alias != "none" else host if port == 22 else f"[{host}]:{port}",
        identity_files=tuple(
            _file(name, tokens) for name in answer.get("identityfile", ()) if name != "none"
        ),
        configured_keys=answer.get("identityfile") != usual.get("identityfile"),
        identities_only=one.get("identitiesonly") == "yes",
        use_agent=agent != "none",
        known_hosts_files=(
            *_files(one.get("userknownhostsfile", "none")),
            *_files(one.get("globalknownhostsfile", "none")),
        ),
        accept_new_host_keys=options.accept_new_host_keys
        or checking in ("accept-new", "no", "off", "false"),
        family=_FAMILIES[one.get("addressfamily", "any")],
        connect_timeout_s=connect_timeout_s(answer, options),
        proxy_command=None if proxy == "none" else _expanded(proxy, tokens),
        jumps=jump_hosts(answer),
    )


def jump_hosts(answer: Answer) -> tuple[Node, ...]:
    """The hosts of ProxyJump, the one nearest to here first; NotServed if one is no host."""
    value = answer.get("proxyjump", ["none"])[0]
    if value.lower() == "none":
        return ()
    found = [_JUMP.fullmatch(word) for word in value.split(",")]
    if not all(found):
        raise NotServed(f"proxyjump {value}")
    return tuple(
        Node(
            match["name"] or match["address"],
            user=match["user"],
            port=int(match["port"]) if match["port"] else None,
        )
        for match in found
        if match
    )


def home() -> str:
    """The home folder as ssh has it: the password file's, not $HOME."""
    return pwd.getpwuid(os.getuid()).pw_dir


def _file(name: str, tokens: Mapping[str, str]) -> Path:
    """`~`, `${NAME}` and %-tokens of a file's name, which `ssh -G` prints as they stand."""
    if name.startswith("~/") or name == "~":
        name = home() + name[1:]
    elif name.startswith("~"):
        try:
            name = str(Path(name).expanduser())
        except RuntimeError:
            raise NotServed(f"identityfile {name}: no such user") from None

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise NotServed(f"identityfile {name}: no variable {match[1]}")
        return os.environ[match[1]]

    return Path(re.sub(r"\$\{(\w+)\}", value, _expanded(name, tokens)))


def _expanded(text: str, tokens: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in tokens:
            raise NotServed(f"%{match[1]} in {text}")
        return tokens[match[1]]

    return re.sub(r"%(.?)", value, text)


def _files(value: str) -> tuple[Path, ...]:
    """Names that `ssh -G` prints without quotes: NotServed where a blank may be part of one."""
    if value == "none":
        return ()
    words = value.split(" ")
    if not all(word.startswith("/") for word in words):
        raise NotServed(f"names with blanks in {value}")
    for begin in range(len(words)):
        for end in range(begin + 2, len(words) + 1):
            name = " ".join(words[begin:end])
            if os.path.exists(name):  # noqa: PTH110 - Path.exists raises: long name, closed folder
                raise NotServed(f"names with blanks in {value}")
    return tuple(Path(word) for word in words)
