"""Stopping runs: the newest running run, a named one, or more than one."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.cluster import settings as cluster
from soractl.errors import INTERRUPTED, ExitCode, SoractlError, exit_code_of
from soractl.processes.scan import NodeProcesses, find
from soractl.processes.selection import Selection
from soractl.processes.stop import StopResult, stop
from soractl.remote.nodes import Node, find_nodes
from soractl.remote.requests import Remote
from soractl.remote.ssh_command import SshOptions
from soractl.runs.events import EventKind, EventLog
from soractl.runs.find import find_run, last_attempt
from soractl.runs.node_states import read_states
from soractl.runs.owner import UNSEEN, other_owner, refuse_another_users
from soractl.runs.record import read_record
from trainer.atomic_files import RunDirError
from trainer.run_dir import RunDir, runs

FIND_DEADLINE_S = 15.0

Connect = Callable[[SshOptions], AbstractContextManager[Remote]]


@dataclass(frozen=True, kw_only=True)
class KillOptions:
    """Options of `kill`."""

    run: str | None = None
    every_run: bool = False
    pattern: str | None = None
    sudo: bool = False
    hostfile: str | None = None


@dataclass(frozen=True)
class Target:
    """Processes to stop: a title, their nodes, the way there, a selection."""

    title: str
    nodes: tuple[Node, ...]
    ssh: SshOptions
    which: Selection
    run: RunDir | None = None  # None: processes that are not of one run
    is_guess: bool = False  # its launchers have ended, and ranks may be left


@dataclass(frozen=True)
class Killed:
    """Processes that were found and, unless it was a dry run, what became of them."""

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


def targets(root: Path, options: KillOptions, environ: Mapping[str, str]) -> list[Target]:
    """Candidates, the likeliest first; SoractlError for options that contradict."""
    if options.run and (options.every_run or options.pattern is not None):
        raise SoractlError("one run was named, but --all and --pattern select others as well")
    if options.pattern is not None:
        _check_pattern(options.pattern)
    if options.every_run or options.pattern is not None:
        source = find_nodes(options.hostfile, environ=environ)
        what = f"processes like {options.pattern}" if options.pattern else "your runs"
        which = Selection(pattern=options.pattern, sudo=options.sudo)
        ssh = cluster.load(source.hostfile)[0].ssh
        return [Target(f"{what} on {source.origin}", source.nodes, ssh, which)]
    if options.run:
        run = find_run(root, options.run)
        if not options.sudo:
            hint = "--sudo stops other users' processes too"
            refuse_another_users(run, f", {UNSEEN}; nothing was stopped", hint)
        targets = _target_of(run)
    else:
        targets = _running_runs(root, with_others=options.sudo)
    targets = [
        replace(target, which=replace(target.which, sudo=options.sudo)) for target in targets
    ]
    if options.hostfile is None:
        return targets
    source = find_nodes(options.hostfile, environ=environ)
    ssh = cluster.load(source.hostfile)[0].ssh
    return [
        replace(target, title=f"{target.title} on {source.origin}", nodes=source.nodes, ssh=ssh)
        for target in targets
    ]


def kill(
    candidates: Sequence[Target],
    connect: Connect,
    *,
    grace_s: float | None,
    on_found: Callable[[Killed], None] | None = None,
) -> Killed | None:
    """Stop the first candidate that has processes; without `grace_s` only find them.

    `on_found` gets them before they are stopped, which may take as long as a save.
    """
    nothing = None
    for target in candidates:
        with connect(target.ssh) as remote:
            found = find(target.nodes, remote, target.which, deadline_s=FIND_DEADLINE_S)
            killed = Killed(target.title, tuple(found), ())
            if not any(node.processes or node.fault for node in found):
                nothing = nothing if target.is_guess else killed
                continue
            if grace_s is not None and not killed.interrupted:
                if on_found and any(node.processes for node in found):
                    on_found(killed)
                _write_event(target, EventKind.STOP_REQUESTED)
                stopped = stop(target.nodes, remote, target.which, grace_s=grace_s)
                killed = Killed(target.title, tuple(found), tuple(stopped))
                _write_event(target, EventKind.KILLED)
            return killed
    return nothing


def _write_event(target: Target, kind: EventKind) -> None:
    attempt = last_attempt(target.run) if target.run else None
    if target.run and attempt:
        EventLog(target.run, "kill").write(kind, attempt=attempt.number)


def _check_pattern(pattern: str) -> None:
    if not pattern:
        raise SoractlError("--pattern '' would mean every process")
    try:
        re.compile(pattern)
    except re.error as error:
        raise SoractlError(f"no regular expression: {error}: --pattern {pattern!r}") from None


def _target_of(run: RunDir) -> list[Target]:
    attempt = last_attempt(run)
    if attempt is None:
        return []
    record = read_record(attempt)
    return [Target(run.name, record.nodes, record.ssh, Selection(run_id=record.run_id), run)]


def _running_runs(root: Path, *, with_others: bool) -> list[Target]:
    """Runs that nobody saw the end of; then the newest of those whose ranks may yet be alive.

    A node that was lost may be back, and a launcher that failed may have left its ranks. A run
    whose files cannot be read is an error only where no other may be the one.
    """
    unsettled: list[Target] = []
    orphaned: list[Target] = []
    given_up: list[Target] = []
    unread: list[Exception] = []
    for run in reversed(runs(root)):
        attempt = last_attempt(run)
        if attempt is None or (not with_others and other_owner(run.path)):
            continue
        try:
            [target] = _target_of(run)
        except (OSError, RunDirError) as error:
            unread.append(error)
            continue
        codes = [state.exit_code for state in read_states(attempt, target.nodes)]
        if None in codes:
            (given_up if attempt.exit.exists() else unsettled).append(target)
        elif any(codes) and not attempt.exit.exists():
            orphaned.append(target)
    guesses = orphaned[:1] + given_up[:1]
    if unread and not unsettled:
        raise unread[0]
    return unsettled + [replace(target, is_guess=True) for target in guesses]
