"""One command on all nodes, and their answers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soractl.cluster import settings as cluster
from soractl.errors import ExitCode, SoractlError, exit_code_of
from soractl.remote.connections import Connections
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import NodeSource, find_nodes, is_hostfile
from soractl.remote.requests import NodeResult, Request
from soractl.terminal.hints import to_type

SEPARATOR = "--"


@dataclass(frozen=True)
class Answers:
    """The results of all nodes for one command."""

    source: NodeSource
    results: tuple[NodeResult, ...]
    elapsed_s: float

    @property
    def exit_code(self) -> ExitCode:
        """As for every command over many nodes."""
        return exit_code_of(result.problem for result in self.results)


def execute(
    hosts: str | None, command: Sequence[str], *, deadline_s: float, environ: Mapping[str, str]
) -> Answers:
    """A command on all nodes; a single word may be a line of shell."""
    source = find_nodes(hosts, environ=environ)
    request = Request(tuple(command) if len(command) > 1 else ("sh", "-c", command[0]))
    began = time.monotonic()
    with Connections(cluster.load(source.hostfile)[0].ssh) as remote:
        results = run_everywhere(source.nodes, lambda node: request, remote, deadline_s=deadline_s)
    return Answers(source, tuple(results), time.monotonic() - began)


def split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Hosts before `--`, the command after it; without hosts the command alone."""
    if SEPARATOR not in words:
        if is_hostfile(words[0]):
            raise SoractlError(
                f"{words[0]} is a host file and no command",
                hint=f"`{to_type('exec', words[0], SEPARATOR, *(words[1:] or ['hostname']))}`",
            )
        return None, list(words)
    at = list(words).index(SEPARATOR)
    hosts, command = words[:at], list(words[at + 1 :])
    if len(hosts) > 1 or not command:
        raise SoractlError(
            f"cannot tell hosts from command in {' '.join(words)!r}",
            hint="`soractl exec nodes.txt -- hostname`; options come first",
        )
    return (hosts[0] if hosts else None), command
