"""A prepared attempt becomes started processes, and never two attempts of a run at once."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from soractl.errors import (
    INTERRUPTED,
    ExitCode,
    Interrupted,
    SoractlError,
    raise_if_interrupted,
)
from soractl.launch.plan import TRAIN_SCRIPT, LaunchPlan, node_script
from soractl.launch.prepare import Prepared
from soractl.processes.selection import Selection
from soractl.processes.stop import stop
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.runs.events import EventKind, EventLog
from soractl.runs.find import last_attempt
from soractl.runs.node_states import ask_states
from soractl.runs.post_mortem import Failure, Outcome
from soractl.runs.record import read_record
from soractl.runs.start_lock import start_lock
from soractl.terminal.hints import to_type
from trainer.atomic_files import write_json
from trainer.run_dir import AttemptDir, RunDir, create_run
from trainer.settings import dump

START_DEADLINE_S = 30.0
GIT_DEADLINE_S = 5.0

# `setsid` detaches the ranks from this connection; the run's name is in the environment of the
# session's first process too, so that whoever looks for the run's processes finds it.
START_SCRIPT = """\
refuse() {{ echo "$@" >&2; exit 1; }}
[ -r {script} ] || refuse "there is no" {script} "here; all nodes must share the folder of runs"
for program in colossalai torchrun; do
  PATH={path} command -v $program >/dev/null || refuse "no $program in" {path}
done
SORACTL_RUN_ID={run} setsid bash {script} </dev/null >/dev/null 2>&1 &
"""


@dataclass(frozen=True)
class Started:
    """An attempt whose processes were started."""

    run: RunDir
    attempt: AttemptDir
    plan: LaunchPlan
    started_unix_s: float


def launch(prepared: Prepared, command_line: Sequence[str], remote: Remote) -> Started:
    """Make the run or its next attempt and start every node; SoractlError when one refuses."""
    run = prepared.run or _create(prepared, command_line, remote)
    with start_lock(run):
        refuse_if_alive(run, remote)
        attempt = run.new_attempt()
        if prepared.run is None:  # the trainer takes a resume's over, unless it refuses them
            write_json(run.config_json, dump(prepared.config))
        write_json(attempt.config_json, dump(prepared.config))
        plan = prepared.plan.at(run.path, attempt.number)
        started = Started(run, attempt, plan, time.time())
        write_json(attempt.plan, {**plan.as_json(), "started_unix_s": started.started_unix_s})
        results = start(plan, attempt, remote)
    if refused := [result for result in results if not result.ok]:
        raise _rolled_back(started, refused, remote)
    nodes = ", ".join(node.node.name for node in plan.nodes)
    text = f"{plan.start.kind.replace('_', ' ')} on {nodes}"
    EventLog(run, "launch").write(EventKind.STARTED, attempt=attempt.number, text=text)
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
            f"it may be running on {', '.join(state.node for state in hidden)}",
            hint=f"{hidden[0].owner} can resume it",
            exit_code=ExitCode.REFUSED,
        )
    if alive := [state for state in states if state.processes]:
        where = ", ".join(f"{state.processes} processes on {state.node}" for state in alive)
        raise SoractlError(
            f"{run.name} is still running: {where}",
            hint=f"`{to_type('kill', run.name)}` stops it; "
            f"`{to_type('status', run.name)}` shows how far it is",
            exit_code=ExitCode.REFUSED,
        )


def start(plan: LaunchPlan, attempt: AttemptDir, remote: Remote) -> list[NodeResult]:
    """Start every node of a plan at once."""
    paths = {}
    for node in plan.nodes:
        attempt.node_script(node.node.name).write_text(node_script(plan, node, attempt))
        paths[node.node.name] = node.environment["PATH"]

    def request(node: Node) -> Request:
        script = START_SCRIPT.format(
            script=shlex.quote(str(attempt.node_script(node.name))),
            path=shlex.quote(paths[node.name]),
            run=shlex.quote(str(plan.run)),
        )
        return Request(("bash", "-s"), script)

    nodes = [node.node for node in plan.nodes]
    return run_everywhere(nodes, request, remote, deadline_s=START_DEADLINE_S)


def _rolled_back(started: Started, refused: Sequence[NodeResult], remote: Remote) -> SoractlError:
    """Stop the nodes that did start; the error to raise."""
    nodes = [node.node for node in started.plan.nodes]
    for node in nodes:
        # A request that is still on its way to a node finds nothing to start.
        started.attempt.node_script(node.name).unlink()
    stopped = stop(nodes, remote, Selection(run_id=str(started.plan.run)), grace_s=5)
    failure = Failure(refused[0].node.name, f"did not start: {refused[0].reason}")
    interrupted = any(result.fault == INTERRUPTED for result in refused)
    code = ExitCode.INTERRUPTED if interrupted else ExitCode.REFUSED
    write_json(started.attempt.exit, Outcome(code, time.time(), failure).as_json())
    name = started.run.name
    unsure = ", ".join(node.node.name for node in stopped if not node.ok)
    hint = f"{unsure} may still run it; `{to_type('kill', name)}` stops that" if unsure else None
    if interrupted:
        return Interrupted(f"{name} was stopped again", hint=hint)
    faults = [f"{result.node.name}: {result.reason}" for result in refused]
    return SoractlError("\n".join(faults), hint=hint, exit_code=code)


def _create(prepared: Prepared, command_line: Sequence[str], remote: Remote) -> RunDir:
    run = create_run(prepared.plan.run.parent, prepared.stage)
    hostfile = prepared.site.source.hostfile
    values = {
        "stage": prepared.stage,
        "start": prepared.plan.start.as_json(),
        "command": shlex.join(command_line),
        "commit": _commit(remote),
        "created_unix_s": time.time(),
        "nodes": [node.node.name for node in prepared.plan.nodes],
        "hostfile": str(hostfile.absolute()) if hostfile else None,
    }
    write_json(run.run_json, values)
    return run


def _commit(remote: Remote) -> str | None:
    # --exclude='*': never a tag, always the commit
    describe = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    request = Request(("git", "-C", str(TRAIN_SCRIPT.parent), *describe))
    result = remote(this_machine(), request, GIT_DEADLINE_S)
    return result.stdout.strip() if result.ok else None
