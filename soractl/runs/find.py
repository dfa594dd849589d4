"""Runs on disk: finding the one that is meant, and what its attempts' plans recorded."""

import difflib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soractl.errors import ExitCode, SoractlError
from soractl.remote.nodes import Node, parse_node_list
from soractl.remote.ssh_config import SshOptions
from soractl.terminal.hints import to_type
from trainer.atomic_files import RunDirError, read_json
from trainer.run_dir import AttemptDir, RunDir, run_of, runs

LATEST = "latest"


@dataclass(frozen=True)
class Recorded:
    """What an attempt's `plan.json` says about where it runs."""

    run_id: str  # SORACTL_RUN_ID of its processes
    nodes: tuple[Node, ...]
    ranks: tuple[int, ...]  # of each node
    ssh: SshOptions
    started_unix_s: float

    def node_of_rank(self, rank: int) -> str:
        """The name of the node that a rank runs on."""
        ends = itertools.accumulate(self.ranks)
        return next(node.name for node, end in zip(self.nodes, ends, strict=True) if rank < end)


def find_run(root: Path, name: str) -> RunDir:
    """The run meant by `latest`, `7`, `007-stage2` or its folder; exit code 6 if there is none."""
    folder = Path(name)
    if RunDir(folder).run_json.is_file():
        return RunDir(folder)
    return choose_run(runs(root), name, str(root))


def choose_run(known: Sequence[RunDir], name: str, root: str) -> RunDir:
    """The one of these runs (oldest first) that a name means; exit code 6 if there is none."""
    if not known:
        raise SoractlError(
            f"there is no run in {root}/",
            hint=f"`{to_type('launch', 'STAGE')}` starts one",
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    if name == LATEST:
        return known[-1]
    same = [run for run in known if name in (run.name, run.name.partition("-")[0])]
    same += [run for run in known if name.isdecimal() and int(name) == _number(run)]
    if same:
        return same[-1]
    raise SoractlError(
        f"no run {name} in {root}/", hint=_meant(name, known), exit_code=ExitCode.NOTHING_SUITABLE
    )


def runs_of_stage(root: Path, stage: str) -> list[RunDir]:
    """The runs of one stage, oldest first."""
    return [run for run in runs(root) if stage_of(run) == stage]


def run_of_checkpoint(path: Path) -> RunDir | None:
    """The run that a checkpoint's folder belongs to, if it lies in one."""
    run = run_of(path)
    return run if path.parent == run.checkpoints_folder and run.run_json.is_file() else None


def stage_of(run: RunDir) -> str:
    """The stage that a run trains."""
    return run.name.partition("-")[2]


def last_attempt(run: RunDir) -> AttemptDir | None:
    """The newest attempt that was planned; one without a plan never started anything."""
    planned = [attempt for attempt in run.attempts() if attempt.plan.is_file()]
    return planned[-1] if planned else None


def recorded(attempt: AttemptDir) -> Recorded:
    """Where an attempt runs, in node rank order."""
    plan = read_json(attempt.plan)
    try:
        nodes = tuple(_node(values) for values in plan["nodes"])
        ranks = tuple(int(values["ranks"]) for values in plan["nodes"])
        started = float(plan["started_unix_s"])
        return Recorded(str(plan["run_id"]), nodes, ranks, SshOptions(**plan["ssh"]), started)
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirError(f"{attempt.plan} does not say where it runs: {error!r}") from None


def ssh_options(run: RunDir) -> SshOptions:
    """How the nodes of a run's newest attempt are reached."""
    attempt = last_attempt(run)
    return recorded(attempt).ssh if attempt else SshOptions()


def log_of(run: RunDir, node: str | None) -> tuple[Path, Callable[[], bool]]:
    """The newest attempt's log of a node, else the head node; and whether nothing more comes."""
    attempt = last_attempt(run)
    if attempt is None:
        raise SoractlError(f"{run.name} never started", exit_code=ExitCode.NOTHING_SUITABLE)
    names = [known.name for known in recorded(attempt).nodes]
    name = node or names[0]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"its nodes are: {', '.join(names)}"
        raise SoractlError(f"{run.name} does not run on {name}", hint=hint)
    exits = (attempt.exit, attempt.node_exit(name))
    return attempt.node_log(name), lambda: any(path.exists() for path in exits)


def node_as_json(node: Node) -> dict[str, Any]:
    """A node as `plan.json` says it; `recorded` reads it back."""
    return {"name": node.name, "user": node.user, "port": node.port, "slots": node.slots}


def _node(values: dict[str, Any]) -> Node:
    user, port = values["user"], values["port"]
    address = (f"{user}@" if user else "") + values["name"] + (f":{port}" if port else "")
    # Read anew: whether it is this machine depends on where we are now.
    return replace(parse_node_list(address)[0], slots=values["slots"])


def _number(run: RunDir) -> int:
    return int(run.name.partition("-")[0])


def _meant(name: str, known: Sequence[RunDir]) -> str:
    names = [run.name for run in known]
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"the newest are: {', '.join(names[-5:])}"
