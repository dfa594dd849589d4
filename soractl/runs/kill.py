"""What `kill` stops: the newest run that lives, the one that was named, or more than one."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.cluster import settings as cluster
from soractl.errors import INTERRUPTED, ExitCode, SoractlError, exit_code_of
from soractl.processes.scan import NodeProcesses, Selection, StopResult, find, stop
from soractl.remote.nodes import Node, find_nodes
from soractl.remote.requests import Remote
from soractl.remote.ssh_config import SshOptions
from soractl.runs import node_states as attempts
from soractl.runs.find import find_run, last_attempt, recorded
from trainer.run_dir import RunDir, runs

FIND_DEADLINE_S = 15.0

Connect = Callable[[SshOptions], AbstractContextManager[Remote]]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user said."""

    run: str | None = None
    every_run: bool = False
    pattern: str | None = None
    sudo: bool = False
    hostfile: str | None = None


@dataclass(frozen=True)
class Target:
    """What is to be stopped, and how its nodes are reached."""

    title: str
    nodes: tuple[Node, ...]
    ssh: SshOptions
    which: Selection


@dataclass(frozen=True)
class Killed:
    """What was found and, unless it was a dry run, what became of it."""

    title: str
    found: tuple[NodeProcesses, ...]
    stopped: tuple[StopResult, ...]

    @property
    def interrupted(self) -> bool:
        """Ctrl-C came while the nodes were asked: then nothing is stopped."""
        return any(node.fault == INTERRUPTED for node in self.found)

    @property
    def exit_code(self) -> ExitCode:
        """1 when something is still there, 3 or 4 when only some nodes answered, 130 at Ctrl-C."""
        results = self.stopped or self.found
        code = exit_code_of(result.fault for result in results)
        if any(result.survivors or result.gpu_pids for result in self.stopped):
            return code if code is ExitCode.INTERRUPTED else ExitCode.FAILED
        return code


def targets(root: Path, wishes: Wishes, environ: Mapping[str, str]) -> list[Target]:
    """What may be meant, the likeliest first; SoractlError for wishes that contradict."""
    if wishes.run and (wishes.every_run or wishes.pattern is not None):
        raise SoractlError("one run was named, but --all and --pattern mean others as well")
    if wishes.pattern is not None:
        _check_pattern(wishes.pattern)
    if wishes.every_run or wishes.pattern is not None:
        source = find_nodes(wishes.hostfile, environ=environ)
        what = f"processes like {wishes.pattern}" if wishes.pattern else "every run of yours"
        which = Selection(pattern=wishes.pattern, sudo=wishes.sudo)
        ssh = cluster.load(source.hostfile)[0].ssh
        return [Target(f"{what} on {source.origin}", source.nodes, ssh, which)]
    meant = _of_run(find_run(root, wishes.run)) if wishes.run else _living(root)
    meant = [replace(target, which=replace(target.which, sudo=wishes.sudo)) for target in meant]
    if wishes.hostfile is None:
        return meant
    source = find_nodes(wishes.hostfile, environ=environ)
    ssh = cluster.load(source.hostfile)[0].ssh
    return [
        replace(target, title=f"{target.title} on {source.origin}", nodes=source.nodes, ssh=ssh)
        for target in meant
    ]


def kill(
    candidates: Sequence[Target],
    connect: Connect,
    *,
    grace_s: float | None,
    on_found: Callable[[Killed], None] | None = None,
) -> Killed | None:
    """Stop the first candidate that has processes; without `grace_s` only find them.

    `on_found` hears of them before they are stopped, which may take as long as a save.
    """
    killed = None
    for target in candidates:
        with connect(target.ssh) as remote:
            found = find(target.nodes, remote, target.which, deadline_s=FIND_DEADLINE_S)
            killed = Killed(target.title, tuple(found), ())
            if not any(node.processes or node.fault for node in found):
                continue
            if grace_s is not None and not killed.interrupted:
                if on_found:
                    on_found(killed)
                stopped = stop(target.nodes, remote, target.which, grace_s=grace_s)
                killed = Killed(target.title, tuple(found), tuple(stopped))
            return killed
    return killed


def _check_pattern(pattern: str) -> None:
    if not pattern:
        raise SoractlError("--pattern '' would mean every process")
    try:
        re.compile(pattern)
    except re.error as error:
        raise SoractlError(f"no regular expression: {error}: --pattern {pattern!r}") from None


def _of_run(run: RunDir) -> list[Target]:
    attempt = last_attempt(run)
    if attempt is None:
        return []
    record = recorded(attempt)
    return [Target(run.name, record.nodes, record.ssh, Selection(run_id=record.run_id))]


def _living(root: Path) -> list[Target]:
    """Runs that nobody saw the end of; then the newest that ended without one of its nodes."""
    unsettled: list[Target] = []
    given_up: list[Target] = []
    for run in reversed(runs(root)):
        attempt = last_attempt(run)
        if attempt is None:
            continue
        if not all(state.ended for state in attempts.read_states(attempt, recorded(attempt).nodes)):
            # A node that was lost may be back, and its ranks alive.
            (given_up if attempt.exit.exists() else unsettled).extend(_of_run(run))
    return unsettled + given_up[:1]
