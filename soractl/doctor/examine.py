"""`soractl doctor`: every node is asked once for all that a training needs, then judged."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from soractl.doctor import golden
from soractl.errors import ExitCode, raise_if_interrupted
from soractl.health.check import majority
from soractl.health.examine import Health, NodeAnswer, judge_nodes, silences
from soractl.launch.plan import LaunchPlan
from soractl.launch.preflight import CHECKS, Asked, ask, marker_in
from soractl.launch.prepare import LaunchOptions, Site, prepare_launch, refuse_unnamed, site_of
from soractl.launch.start_point import StartPoint
from soractl.remote.connections import Connections
from trainer.run_dir import next_path

if TYPE_CHECKING:
    from soractl.doctor.stage_needs import StageNeeds

SHARED = (
    "same.versions",
    "same.packages",
    "kernel.version",
    "gpu.product",
    "gpu.driver_version",
    "net.ofed",
)


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """All nodes, judged, and what they have in common."""

    health: Health
    shared: Mapping[str, Mapping[str, str | None]]  # values that most have, by check and thing
    stage: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        return self.health.exit_code


def examine(
    hosts: str | None,
    stage: str | None,
    golden_file: Path | None,
    *,
    runs: str,
    deadline_s: float,
    environ: Mapping[str, str],
) -> Readiness:
    """One look at all nodes; SoractlError for what is wrong with the request itself."""
    recorded = golden.read(golden_file) if golden_file and golden_file.exists() else None
    began = time.monotonic()
    site, plan, needs, notes = _asked_for(hosts, stage, runs, environ)
    muted, ended = silences(site.cluster.health.silence, date.today())
    answers = _ask(plan, needs, site, deadline_s)
    raise_if_interrupted((answer.fault for answer in answers), "the nodes have not all answered")
    rows = judge_nodes(answers, CHECKS, muted, recorded)
    if recorded is not None:
        rows = golden.with_missing(rows, answers, CHECKS, recorded)
        notes = (*notes, f"compared with {golden_file}; remove it to record another state")
    elapsed_s = time.monotonic() - began
    health = Health(site.source, tuple(rows), CHECKS, ended, elapsed_s)
    facts = [answer.facts for answer in answers if answer.facts]
    found = Readiness(
        health=health,
        shared={check.id: majority(check, facts) for check in CHECKS if check.id in SHARED},
        stage=stage,
        notes=notes,
    )
    if golden_file and recorded is None:
        return _recorded(found, answers, golden_file)
    return found


def _recorded(found: Readiness, answers: list[NodeAnswer], file: Path) -> Readiness:
    """Only a state without faults is a good one."""
    if found.exit_code is not ExitCode.OK:
        return replace(found, notes=(*found.notes, f"{file} was not written: nodes are not well"))
    count = golden.record(answers, CHECKS, file)
    note = f"recorded {count} values in {file}, with which later calls compare"
    return replace(found, notes=(*found.notes, note))


def _asked_for(
    hosts: str | None, stage: str | None, runs: str, environ: Mapping[str, str]
) -> "tuple[Site, LaunchPlan, StageNeeds | None, tuple[str, ...]]":
    """The launch as it would be, and a stage's needs."""
    options = LaunchOptions(runs=runs, hostfile=hosts)
    site = site_of(options, environ)
    refuse_unnamed(site, "doctor")
    if stage is None:
        plan = site.plan(next_path(Path(runs).absolute(), "doctor"), StartPoint("fresh"))
        return site, plan, None, ()
    from soractl.doctor.stage_needs import needs_of  # loads all that estimates need

    prepared = prepare_launch(stage, options, environ)
    return prepared.site, prepared.plan, needs_of(prepared), tuple(prepared.notes)


def _ask(
    plan: LaunchPlan, needs: "StageNeeds | None", site: Site, deadline_s: float
) -> list[NodeAnswer]:
    names = [node.node.name for node in plan.nodes]
    # Nobody listens on this port: that a machine refuses shows that it is reached.
    beside = {"names": names, "meeting": site.machine.free_port}
    if needs:
        beside |= needs.question
    with ExitStack() as stack:
        try:
            marker, is_marked = stack.enter_context(marker_in(plan.run.parent)), True
        except OSError:  # read-only or full, which is a finding of its own
            marker, is_marked = plan.run.parent / "unmarked", False
        remote = stack.enter_context(Connections(site.cluster.ssh))
        asked = Asked(
            plan,
            marker,
            is_marked,
            places=False,
            beside=beside,
            facts=needs.facts if needs else None,
            deadline_s=deadline_s,
        )
        return ask(asked, remote)
