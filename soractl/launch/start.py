"""A prepared attempt becomes started processes, and never two attempts of a run at once."""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from soractl.errors import (
    INTERRUPTED,
    ExitCode,
    Interrupted,
    SoractlError,
    raise_if_interrupted,
)
from soractl.launch.plan import TRAIN_SCRIPT, LaunchPlan, NodePlan, node_script
from soractl.launch.preflight import cannot_write
from soractl.launch.prepare import Prepared
from soractl.processes.selection import Selection
from soractl.processes.stop import stop
from soractl.remote.fan_out import run_everywhere
from soractl.remote.folding import fold_lines, fold_names, fold_places
from soractl.remote.nodes import this_machine
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script, variables
from soractl.runs.events import EventKind, EventLog
from soractl.runs.find import last_attempt
from soractl.runs.node_states import ask_states
from soractl.runs.post_mortem import Failure, Outcome
from soractl.runs.record import read_record
from soractl.runs.start_lock import start_lock
from soractl.terminal import text
from soractl.terminal.hints import to_type
from trainer.atomic_files import folder_time, write_json
from trainer.run_dir import AttemptDir, RunDir, create_run
from trainer.settings import dump

START_DEADLINE_S = 30.0
GIT_DEADLINE_S = 5.0
READY = script("soractl.launch", "ready.sh")


@dataclass(frozen=True)
class Started:
    """An attempt whose processes were started."""

    run: RunDir
    attempt: AttemptDir
    plan: LaunchPlan


def launch(prepared: Prepared, command_line: Sequence[str], remote: Remote) -> Started:
    """Make the run or its next attempt and start every node; SoractlError when one refuses."""
    with can_write(prepared.plan.run.parent):
        run = prepared.run or create(prepared, command_line, remote)
    with ExitStack() as held:
        with can_write(run.path):
            held.enter_context(start_lock(run))
        refuse_if_alive(run, remote)
        with can_write(run.path, made=prepared.run is None):
            started = write_attempt(prepared, run, run.new_attempt())
        results = start(started.plan, started.attempt, remote)
    if refused := [result for result in results if not result.ok]:
        raise _rolled_back(started, refused, remote, is_new=prepared.run is None)
    nodes = fold_names([node.node.name for node in started.plan.nodes])
    how = f"{started.plan.start.kind.replace('_', ' ')} on {nodes}"
    EventLog(run, "launch").write(EventKind.STARTED, attempt=started.attempt.number, text=how)
    return started


def refuse_if_alive(run: RunDir, remote: Remote) -> None:
    """SoractlError, exit code 5, when a run's newest attempt has processes on its nodes."""
    attempt = last_attempt(run)
    if attempt is None:
        return
    states = ask_states(attempt, read_record(attempt), remote)
    raise_if_interrupted((state.fault for state in states), "nothing was started")
    if hidden := [state for state in states if state.owner and not state.ended]:
        raise SoractlError(
            f"{run.name} belongs to {hidden[0].owner}, whose processes cannot be seen; "
            f"it may be running on {fold_names([state.node for state in hidden])}",
            hint=f"{hidden[0].owner} can resume it",
            exit_code=ExitCode.REFUSED,
        )
    if alive := [state for state in states if state.processes]:
        where = fold_places(
            (state.node, text.count(state.processes or 0, "process", "processes"))
            for state in alive
        )
        raise SoractlError(
            f"{run.name} is still running: {where}",
            hint=f"`{to_type('kill', run.name)}` stops it; "
            f"`{to_type('status', run.name)}` shows how far it is",
            exit_code=ExitCode.REFUSED,
        )


def start(plan: LaunchPlan, attempt: AttemptDir, remote: Remote) -> list[NodeResult]:
    """Start the head node, then all others at once; without the head nobody else is asked.

    Each reserves what it uses. The head comes first, so that of two starts exactly one goes on.
    """
    requests = {node.node: _request(plan, node, attempt) for node in plan.nodes}
    head, *others = requests
    results: list[NodeResult] = []
    for nodes in ([head], others):
        if all(result.ok for result in results):
            results += run_everywhere(
                nodes, requests.__getitem__, remote, deadline_s=START_DEADLINE_S
            )
    return results


def write_attempt(prepared: Prepared, run: RunDir, attempt: AttemptDir) -> Started:
    """Everything that an attempt's nodes read, written."""
    if prepared.run is None:  # the trainer takes a resume's over, unless it refuses them
        write_json(run.config_json, dump(prepared.config))
    write_json(attempt.config_json, dump(prepared.config))
    plan = prepared.plan.at(run.path, attempt.number)
    started_unix_s = folder_time(attempt.path)
    for node in plan.nodes:
        attempt.node_script(node.node.name).write_text(node_script(plan, node, attempt))
    write_json(attempt.plan, {**plan.as_json(), "started_unix_s": started_unix_s})
    return Started(run, attempt, plan)


@contextmanager
def can_write(folder: Path, *, made: bool = False) -> Iterator[None]:
    """SoractlError, exit code 5, for a disk that is full or read-only; a folder made now goes."""
    try:
        yield
    except OSError as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise cannot_write(folder, error) from None


def _request(plan: LaunchPlan, node: NodePlan, attempt: AttemptDir) -> Request:
    path, file = node.environment["PATH"], str(attempt.node_script(node.node.name))
    ready = variables(path=path, folder=str(plan.workdir), file=file) + READY
    return Request(("sh", "-s"), ready + plan.reservation(node, attempt.number).start(path, file))


def _rolled_back(
    started: Started, refused: Sequence[NodeResult], remote: Remote, *, is_new: bool
) -> SoractlError:
    """Stop the nodes that did start; the error to raise.

    The attempt's folder goes again, and that of a new run, unless a node may still run it:
    neither `latest` nor a later resume must find a start that never was.
    """
    nodes = [node.node for node in started.plan.nodes]
    for node in nodes:
        # A request that is still on its way to a node finds nothing to start.
        started.attempt.node_script(node.name).unlink()
    stopped = stop(nodes, remote, Selection(run_id=str(started.plan.run)), grace_s=5)
    interrupted = any(result.fault == INTERRUPTED for result in refused)
    code = ExitCode.INTERRUPTED if interrupted else ExitCode.REFUSED
    name, hint = started.run.name, None
    if unsure := fold_names([node.node.name for node in stopped if not node.ok]):
        failure = Failure(refused[0].node.name, f"did not start: {refused[0].reason}")
        write_json(
            started.attempt.exit,
            Outcome(code, folder_time(started.attempt.path), failure).as_json(),
        )
        hint = f"{unsure} may still run it; `{to_type('kill', name)}` stops that"
    else:
        shutil.rmtree(started.run.path if is_new else started.attempt.path, ignore_errors=True)
    if interrupted:
        return Interrupted(f"{name} was stopped again", hint=hint)
    faults = fold_lines((result.node.name, result.reason) for result in refused)
    return SoractlError("\n".join(faults), hint=hint, exit_code=code)


def create(prepared: Prepared, command_line: Sequence[str], remote: Remote) -> RunDir:
    """The folder of a new run, with its origin."""
    run = create_run(prepared.plan.run.parent, prepared.stage)
    hostfile = prepared.site.source.hostfile
    values = {
        "stage": prepared.stage,
        "start": prepared.plan.start.as_json(),
        "command": shlex.join(command_line),
        "commit": commit(remote),
        "created_unix_s": folder_time(run.path),
        "nodes": [node.node.name for node in prepared.plan.nodes],
        "hostfile": str(hostfile.absolute()) if hostfile else None,
    }
    write_json(run.run_json, values)
    return run


def commit(remote: Remote) -> str | None:
    """The code's commit, `-dirty` behind it where files differ; None outside a repository."""
    # --exclude='*': never a tag, always the commit
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    request = Request(("git", "-C", str(TRAIN_SCRIPT.parent), *describe))
    result = remote(this_machine(), request, GIT_DEADLINE_S)
    return result.stdout.strip() if result.ok else None
