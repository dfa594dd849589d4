"""ssh for a node: its arguments, also for `ssh -G` and rsync, and the ways in which it fails."""

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from soractl.remote.nodes import Node

CONNECT_TIMEOUT_S = 5.0

# A configuration for terminals must not change what a command does.
_PLAIN = {"RemoteCommand": "none", "RequestTTY": "no", "ClearAllForwardings": "yes"}
_PLAIN_SINCE_8_7 = {"sessiontype": "default", "stdinnull": "no", "forkafterauthentication": "no"}
# Distributions send these by default; they belong to the terminal, and answers are parsed.
_OF_A_TERMINAL = re.compile("LANG|LANGUAGE|LC_.*|XMODIFIERS")


class SshFailure(Exception):
    """The node was not reached, or was lost; the message says why."""


class NoChannel(SshFailure):
    """Nothing was asked of the node yet, so it may be tried again on a new connection."""


class NotServed(SshFailure):
    """paramiko cannot do what is asked here; ssh may."""


@dataclass(frozen=True)
class SshOptions:
    """The table [ssh] of a cluster's file: what is laid over the user's ssh configuration.

    >>> arguments(Node("n1"), SshOptions(user="ana", port=2222))[-4:]
    ['-l', 'ana', '-p', '2222']
    """

    user: str | None = None
    port: int | None = None
    identity_file: str | None = None
    config_file: str = "~/.ssh/config"
    known_hosts_file: str | None = None
    accept_new_host_keys: bool = False
    connect_timeout_s: float | None = None  # else that of the configuration, else 5 s
    # srun: Slurm's steps beside those of a job of ours, where a cluster lets nobody log in
    client: Literal["auto", "paramiko", "openssh", "srun"] = "auto"


def arguments(node: Node, options: SshOptions) -> list[str]:
    """`ssh` and all that says how to reach a node, without the node's name.

    These overrides go to `ssh -G` too, so that `Match` sees them.
    """
    user, port = node.user or options.user, node.port or options.port
    return [
        *_everywhere(options),
        *as_options(_PLAIN),
        *(("-l", user) if user else ()),
        *(("-p", str(port)) if port else ()),
    ]


def jump_arguments(jumps: Iterable[Node], options: SshOptions) -> list[str]:
    """A ProxyCommand in place of ProxyJump, with which the cluster's options reach jump hosts.

    ssh gives the commands that it makes of ProxyJump nothing but `-F`. Needed only where the
    cluster's file names keys or known hosts.
    """
    proxy: list[str] = []
    for jump in jumps:
        words = [*_everywhere(options), *as_options({"BatchMode": "yes"}), *proxy]
        words += ["-l", jump.user] if jump.user else []
        words += ["-p", str(jump.port)] if jump.port else []
        # The one outside expands %h for the host that is behind this jump.
        command = f"{_without_tokens(shlex.join(words))} -W '[%h]:%p' -- {jump.name}"
        proxy = ["-o", f"ProxyCommand={command}"]
    return proxy


def connecting(answer: Mapping[str, list[str]], options: SshOptions) -> list[str]:
    """Options of a connection that asks nobody anything and is stricter about host keys than ssh.

    `answer` is that of `ssh -G`: an option that this ssh does not know is not given to it.
    """
    checking = answer.get("stricthostkeychecking", ["ask"])[0]
    accepts = options.accept_new_host_keys or checking in ("accept-new", "no", "off", "false")
    chosen = {
        "BatchMode": "yes",
        "UpdateHostKeys": "no",
        "StrictHostKeyChecking": "accept-new" if accepts else "yes",
        "ConnectTimeout": str(max(1, math.ceil(connect_timeout_s(answer, options)))),
    }
    for key, value in _PLAIN_SINCE_8_7.items():
        if answer.get(key, [value])[0] != value:
            chosen[key] = value
    return as_options(chosen)


def environment_words(answer: Mapping[str, list[str]]) -> list[str]:
    """Options with which a request over a socket takes along what the configuration names.

    >>> environment_words({"setenv": ["A=b c"]})
    ['-o', 'SetEnv="A=b c"']
    """
    sent = [word for name in variables_sent(answer) for word in ("-o", f"SendEnv={name}")]
    # ssh takes the first SetEnv alone.
    given = [re.sub(r'(["\\])', r"\\\1", value) for value in answer.get("setenv", ())]
    return [*sent, *(("-o", "SetEnv=" + " ".join(f'"{v}"' for v in given)) if given else ())]


def variables_sent(answer: Mapping[str, list[str]]) -> list[str]:
    """Variables that SendEnv names, but for the locale and the keyboard: the node keeps its own."""
    patterns = answer.get("sendenv", ())
    return [
        name
        for name in os.environ
        if not _OF_A_TERMINAL.fullmatch(name) and any(fnmatchcase(name, each) for each in patterns)
    ]


def connect_timeout_s(answer: Mapping[str, list[str]], options: SshOptions) -> float:
    """The cluster's limit, else the configuration's, else five seconds."""
    configured = answer.get("connecttimeout", ["none"])[0]
    return options.connect_timeout_s or (
        float(configured) if configured.isdecimal() and int(configured) else CONNECT_TIMEOUT_S
    )


def as_options(values: Mapping[str, object]) -> list[str]:
    """`-o NAME=VALUE` for each."""
    return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]


def for_any_shell(argv: Sequence[str]) -> str:
    r"""A command line for the login shell; csh takes `!` for history inside quotes too.

    >>> print(for_any_shell(("ls", "a !")))
    ls 'a '\!''
    """
    return shlex.join(argv).replace("!", r"'\!'")


def _everywhere(options: SshOptions) -> list[str]:
    argv = ["ssh"]
    if options.config_file != SshOptions.config_file:
        argv += ["-F", str(Path(options.config_file).expanduser())]
    if options.identity_file:
        argv += ["-i", _without_tokens(str(Path(options.identity_file).expanduser()))]
    if options.known_hosts_file:
        file = _without_tokens(str(Path(options.known_hosts_file).expanduser()))
        argv += as_options({"UserKnownHostsFile": f'"{file}"'})
    if options.accept_new_host_keys:
        argv += as_options({"StrictHostKeyChecking": "accept-new"})
    return argv


def _without_tokens(text: str) -> str:
    return text.replace("%", "%%")
