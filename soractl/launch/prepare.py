"""Preparation of a launch or resume: settings, nodes, start, plan, what is missing."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.cluster import settings as cluster
from soractl.cluster.ranks import working_directory
from soractl.cluster.settings import Cluster, Kind, Machine
from soractl.data.buckets import steps_of_epoch
from soractl.errors import SoractlError
from soractl.launch import plan as launch_plan
from soractl.launch import start_point
from soractl.launch.plan import LaunchPlan
from soractl.launch.start_point import StartPoint
from soractl.nccl.lint import alarms
from soractl.queue.interface import Allocation
from soractl.queue.kinds import QUEUES, allocation
from soractl.queue.record import newest_job
from soractl.remote.nodes import Node, NodeSource, find_nodes
from soractl.runs.find import find_run, last_attempt, run_of_checkpoint, stage_of
from soractl.runs.owner import NOT_TO_START, refuse_another_users
from soractl.runs.record import read_record
from soractl.terminal import text
from soractl.terminal.hints import to_type
from trainer.atomic_files import read_json
from trainer.config import TrainConfig, check_consistency, load_stage
from trainer.run_dir import AttemptDir, RunDir, next_path
from trainer.settings import ConfigError, parse_override, resolve, without_nulls

SMOKE_TABLE = "data/smoke/clips.csv"  # of the stage `smoke`


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Options of `launch` and `resume` beside the stage or the run."""

    runs: str = "runs"
    hostfile: str | None = None
    init_from: str | None = None
    ema: bool = False
    overrides: tuple[str, ...] = ()
    reset_data: bool = False
    queue: Kind | None = None  # else that of the cluster's file, or none
    random_weights: bool = False  # instead of those that the stage starts from


@dataclass(frozen=True, kw_only=True)
class Site:
    """Nodes and cluster on which it runs."""

    source: NodeSource
    cluster: Cluster
    cluster_file: Path | None
    machine: Machine
    environ: Mapping[str, str]
    is_queued: bool = False  # the queue will name the nodes; those of `source` stand for them

    @property
    def workdir(self) -> Path:
        """The ranks' working directory."""
        return working_directory(self.cluster, self.machine)

    def plan(self, run: Path, start: StartPoint) -> LaunchPlan:
        """The plan of an attempt there."""
        return launch_plan.plan(
            run,
            start,
            nodes=self.source.nodes,
            cluster=self.cluster,
            machine=self.machine,
            environ=self.environ,
        )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An attempt that could be started."""

    stage: str
    config: TrainConfig
    origins: Mapping[str, str]  # where each setting's value came from
    run: RunDir | None  # the run to go on with; None = a new one
    site: Site
    plan: LaunchPlan

    @property
    def missing(self) -> list[str]:
        """Data and weights that must be there before it can start."""
        found = [self.plan.start.missing] if self.plan.start.missing else []
        return [*found, *([] if self._data.exists() else [f"the data set {self._data}"])]

    @property
    def where_data_come_from(self) -> str | None:
        """The command to type where the data set is not there."""
        if self._data.exists():
            return None
        if self.config.data.path == SMOKE_TABLE:
            folder = Path(SMOKE_TABLE).parent
            return f"`{sys.executable} -m trainer.data.smoke_clips {folder}` makes it"
        return "`--set data.path=TABLE` names another; `soractl data info` makes one of a folder"

    @property
    def _data(self) -> Path:
        return self.site.workdir / self.config.data.path

    @property
    def notes(self) -> list[str]:
        """Doubts about the request that do not stop it."""
        passed_over = self.plan.start.passed_over.items()
        environ = self.site.environ
        notes = [
            f"passed over {path.name}, which is not complete: {why}" for path, why in passed_over
        ]
        notes += _note_on_ranks(self)
        notes += alarms(self.site.cluster.env_of(n.name) for n in self.site.source.nodes)
        if self.config.log.wandb and "WANDB_API_KEY" in environ and not _has_netrc(environ):
            notes.append(
                "WANDB_API_KEY does not travel to the nodes, where every user could read it; "
                "`wandb login` keeps the key in ~/.netrc instead"
            )
        return notes


def prepare_launch(stage: str, options: LaunchOptions, environ: Mapping[str, str]) -> Prepared:
    """A new run of a stage; ConfigError or SoractlError for what is wrong with the request."""
    resolved = load_stage(stage, options.overrides)
    site = site_of(options, environ)
    root = Path(options.runs).absolute()
    start = (
        StartPoint("fresh")
        if options.random_weights
        else start_point.for_launch(
            resolved.config, root, site.workdir, options.init_from, ema=options.ema
        )
    )
    return Prepared(
        stage=stage,
        config=resolved.config,
        origins=resolved.origins,
        run=None,
        site=site,
        plan=site.plan(next_path(root, stage), start),
    )


def prepare_resume(what: str, options: LaunchOptions, environ: Mapping[str, str]) -> Prepared:
    """The next attempt of a run, from a checkpoint of it.

    SoractlError: exit code 6 when there is none, 5 for another user's run.
    """
    run, start = _resumed(Path(options.runs).absolute(), what)
    refuse_another_users(run, NOT_TO_START)
    if (found := newest_job(run)) and not options.hostfile:
        options = replace(options, queue=found[1].kind)
    return _next_attempt(run, replace(start, reset_data=options.reset_data), options, environ)


def prepare_restart(run: RunDir, options: LaunchOptions, environ: Mapping[str, str]) -> Prepared:
    """The next attempt of a run that nobody resumes by hand, on nodes of the run's host file.

    `options.init_from` names the checkpoint when it is not the newest complete one.
    """
    if options.init_from:
        start = start_point.from_checkpoint(Path(options.init_from))
    else:
        start = start_point.for_restart(run)
    return _next_attempt(run, start, options, environ)


def on_nodes(prepared: Prepared, nodes: Sequence[Node]) -> Prepared:
    """The same attempt on other nodes, the head node first; spares among them serve as nodes."""
    chosen = tuple(replace(node, spare=False) for node in nodes)
    site = replace(prepared.site, source=replace(prepared.site.source, nodes=chosen))
    assert prepared.run is not None
    planned = site.plan(prepared.run.path, prepared.plan.start)
    number = len(prepared.run.attempts()) + 1
    return replace(prepared, site=site, plan=planned.at(prepared.run.path, number))


def prepare_in_job(
    run: RunDir,
    given: Allocation,
    attempt: AttemptDir,
    start: StartPoint,
    environ: Mapping[str, str],
) -> Prepared:
    """An attempt on the nodes of the job that this process runs in."""
    hostfile = _hostfile_of(run)
    facts, file = cluster.load(hostfile)
    source = NodeSource(nodes_of_queue(given.nodes, facts), _origin(given), hostfile)
    site = Site(
        source=source,
        cluster=replace(facts, master_port=facts.master_port or given.port),
        cluster_file=file,
        machine=cluster.this_machine(environ),
        environ=environ,
    )
    config, origins = resolve(
        TrainConfig, [(str(attempt.config_json), without_nulls(read_json(attempt.config_json)))]
    )
    return Prepared(
        stage=stage_of(run),
        config=config,
        origins=origins,
        run=run,
        site=site,
        plan=site.plan(run.path, start),
    )


def _next_attempt(
    run: RunDir, start: StartPoint, options: LaunchOptions, environ: Mapping[str, str]
) -> Prepared:
    config, origins = _resumed_config(run, options.overrides)
    known = _nodes_of(run)
    site = site_of(options, environ, run_nodes=known, run_hostfile=_hostfile_of(run))
    return Prepared(
        stage=stage_of(run),
        config=config,
        origins=origins,
        run=run,
        site=site,
        plan=site.plan(run.path, start).at(run.path, len(run.attempts()) + 1),
    )


def site_of(
    options: LaunchOptions,
    environ: Mapping[str, str],
    *,
    run_nodes: Sequence[Node] = (),
    run_hostfile: Path | None = None,
) -> Site:
    """The site: nodes that are named or allocated, or those that a queue will give."""
    source = find_nodes(options.hostfile, run_nodes=run_nodes, environ=environ)
    source = replace(source, nodes=tuple(_with_slots(node, run_nodes) for node in source.nodes))
    given = None if options.hostfile else allocation(environ)
    is_named = bool(options.hostfile or environ.get("SORACTL_HOSTFILE") or run_hostfile)
    if options.queue and not is_named and cluster.SLURM.is_file():
        source = NodeSource((), str(cluster.SLURM), cluster.SLURM)
    facts, file = cluster.load(source.hostfile or run_hostfile)
    facts = replace(facts, kind=options.queue or facts.kind)
    if facts.is_queued:
        if given:
            nodes = nodes_of_queue(given.nodes, facts)
            source = replace(source, nodes=nodes, origin=_origin(given))
        else:
            listed = len(source.nodes if source.hostfile else run_nodes)
            count = facts.jobs.nodes or listed or 1
            nodes = nodes_of_queue([Node(f"node-{i + 1}") for i in range(count)], facts)
            origin = f"{QUEUES[facts.kind].title} will name them"
            source = replace(source, nodes=nodes, origin=origin)
    return Site(
        source=source,
        cluster=facts,
        cluster_file=file,
        machine=cluster.this_machine(environ),
        environ=environ,
        is_queued=given is None and facts.is_queued,
    )


def _origin(given: Allocation) -> str:
    return f"{QUEUES[given.kind].title} job {given.job_id}"


def refuse_unnamed(site: Site, command: str) -> None:
    """SoractlError where a queue has yet to name the nodes that a command would ask."""
    if site.is_queued:
        raise SoractlError(
            f"the nodes are {QUEUES[site.cluster.kind].title}'s until a job has them",
            hint=f"name some: `soractl {command} node-[001-024]`",
        )


def nodes_of_queue(nodes: Sequence[Node], facts: Cluster) -> tuple[Node, ...]:
    """Nodes with a rank for each GPU that the queue is asked for; SoractlError if nothing says."""
    slots = facts.ranks_per_node or facts.jobs.gpus_per_node
    if slots is None:
        raise SoractlError(
            "how many GPUs does a node have?",
            hint=f"write `[slurm]` and `gpus_per_node = 8` into {cluster.SLURM}, "
            "or into the .toml beside the hostfile",
        )
    return tuple(replace(node, slots=slots) for node in nodes)


def _resumed(root: Path, what: str) -> tuple[RunDir, StartPoint]:
    path = Path(what).absolute()
    if run := run_of_checkpoint(path):
        return run, start_point.from_checkpoint(path)
    if path.is_dir() and not RunDir(path).run_json.is_file() and os.sep in what:
        raise SoractlError(
            f"{path} is neither a run nor a checkpoint of one",
            hint="a new run takes its weights with "
            f"`{to_type('launch', 'STAGE', '--init-from', 'PATH')}`",
        )
    run = find_run(root, what)
    return run, start_point.for_resume(run)


def _resumed_config(
    run: RunDir, overrides: tuple[str, ...]
) -> tuple[TrainConfig, Mapping[str, str]]:
    layers = [(str(run.config_json), without_nulls(read_json(run.config_json)))]
    layers += [(f"--set {one}", parse_override(one)) for one in overrides]
    config, origins = resolve(TrainConfig, layers)
    if faults := check_consistency(config):
        raise ConfigError([f"{run.config_json}: {fault}" for fault in faults])
    return config, origins


def _nodes_of(run: RunDir) -> tuple[Node, ...]:
    attempt = last_attempt(run)
    return read_record(attempt).nodes if attempt else ()


def _with_slots(node: Node, known: Sequence[Node]) -> Node:
    """A node that is named without its slots has those of the run's attempt before."""
    slots = {other.name: other.slots for other in known}
    return node if node.slots else replace(node, slots=slots.get(node.name))


def _note_on_ranks(prepared: Prepared) -> list[str]:
    """The consequence of another number of ranks than in the attempt before."""
    attempt = last_attempt(prepared.run) if prepared.run else None
    before = sum(read_record(attempt).ranks) if attempt else 0
    now = prepared.plan.world_size
    if not before or before == now:
        return []
    note = f"{text.count(now, 'rank')} instead of {before}"
    with suppress(SoractlError, ImportError, OSError, ValueError):
        path = prepared.site.workdir / prepared.config.data.path
        then, after = steps_of_epoch(prepared.config, path, (before, now))
        note += f": {text.count(after, 'step')} an epoch instead of {then}"
    return [note]


def _hostfile_of(run: RunDir) -> Path | None:
    hostfile = read_json(run.run_json).get("hostfile")
    return Path(str(hostfile)) if hostfile else None


def _has_netrc(environ: Mapping[str, str]) -> bool:
    return (Path(environ.get("HOME", "~")).expanduser() / ".netrc").exists()
