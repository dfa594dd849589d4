"""`soractl health`: every node is probed once, then judged by all checks that were chosen."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from fnmatch import fnmatchcase

from soractl.cluster import settings as cluster
from soractl.cluster.settings import Silence
from soractl.errors import ExitCode, Fault, FaultKind, SoractlError, exit_code_of
from soractl.health import checks_gpu, checks_launch, checks_network, checks_system
from soractl.health.check import Check, Context, Finding, Level, Values, judge, majority
from soractl.health.facts import Facts, parse
from soractl.remote.connections import Connections
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node, NodeSource, find_nodes
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script

CHECKS: tuple[Check, ...] = (*checks_gpu.CHECKS, *checks_network.CHECKS, *checks_system.CHECKS)
SILENCEABLE = (*CHECKS, *checks_launch.CHECKS, *checks_gpu.DCGM)
Fleet = Mapping[str, Values]  # values by check
COUNTED_DAYS = 7  # in which it is counted how often something turned bad


@dataclass(frozen=True)
class NodeAnswer:
    """Facts of a node, or the fault that hides them."""

    node: Node
    facts: Facts | None = None
    fault: Fault | None = None
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class NodeHealth:
    """A node's row: its findings, or the fault that hides them."""

    node: Node
    findings: tuple[Finding, ...] = ()
    silenced: tuple[tuple[Finding, str], ...] = ()  # with the reason of the silence
    fault: Fault | None = None
    elapsed_s: float = 0.0

    @property
    def worst(self) -> Level:
        """The gravest finding that is one; a node may be good with some of it unknown."""
        levels = {finding.level for finding in self.findings}
        return next((one for one in (Level.BAD, Level.WARNING, Level.GOOD) if one in levels),
                    Level.UNKNOWN)  # fmt: skip


@dataclass(frozen=True)
class Since:
    """The moment from which on a thing is bad."""

    unix_s: int
    is_first_look: bool = False  # then it may be bad for longer
    times: int = 1  # that it turned bad in the last days


@dataclass(frozen=True)
class Past:
    """History of all that is bad now, by earlier looks."""

    now_unix_s: int
    since: Mapping[tuple[str, str, str], Since]  # by node, check and thing


@dataclass(frozen=True)
class Health:
    """All nodes, judged."""

    source: NodeSource
    rows: tuple[NodeHealth, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    past: Past | None = None

    @property
    def exit_code(self) -> ExitCode:
        """1 where something is BAD; else as for every command over many nodes."""
        found = exit_code_of(row.fault for row in self.rows)
        if found is not ExitCode.INTERRUPTED and any(r.worst is Level.BAD for r in self.rows):
            return ExitCode.FAILED
        return found


def choose(only: Sequence[str], skip: Sequence[str], context: Context) -> tuple[Check, ...]:
    """The checks of a context; `only` and `skip` name checks, or all of a kind: `gpu`.

    SoractlError for a name that no check has.
    """
    for name in (*only, *skip):
        _known(name, CHECKS)
    return tuple(
        check
        for check in CHECKS
        if context in check.contexts
        and (not only or any(_is(check, name) for name in only))
        and not any(_is(check, name) for name in skip)
    )


def check_health(
    hosts: str | None,
    checks: Sequence[Check],
    *,
    deadline_s: float,
    environ: Mapping[str, str],
) -> Health:
    """One look at all nodes."""
    source = find_nodes(hosts, environ=environ)
    settings = cluster.load(source.hostfile)[0]
    muted, notes = silences(settings.health.silence, date.today())
    began = time.monotonic()
    with Connections(settings.ssh) as remote:
        answers = probe(source.nodes, remote, deadline_s=deadline_s)
    rows = judge_nodes(answers, checks, muted)
    return Health(source, tuple(rows), tuple(checks), notes, time.monotonic() - began)


def probe(nodes: Sequence[Node], remote: Remote, *, deadline_s: float) -> list[NodeAnswer]:
    """Answers of `probe.sh` of all nodes, in one round trip each."""
    # Less than the deadline, so that the node itself can say that nvidia-smi hangs.
    limit_s = f"{deadline_s * 0.7:.1f}"
    request = Request(("sh", "-s", "--", limit_s), script("soractl.health", "probe.sh"))
    return everywhere(
        nodes,
        lambda node: answer_of(remote(node, request, deadline_s)),
        lambda node, fault: NodeAnswer(node, fault=fault, elapsed_s=deadline_s),
        deadline_s=deadline_s,
    )


Muted = Callable[[Check, str], str | None]


def answer_of(result: NodeResult) -> NodeAnswer:
    """Facts of a node, be its answer whole or cut short."""
    if "=== facts " in result.stdout or "=== nvidia " in result.stdout:
        return NodeAnswer(result.node, parse(result.stdout), elapsed_s=result.elapsed_s)
    fault = result.problem or Fault(FaultKind.FAILED, "the node's shell printed no facts")
    return NodeAnswer(result.node, fault=fault, elapsed_s=result.elapsed_s)


def judge_nodes(
    answers: Sequence[NodeAnswer],
    checks: Sequence[Check],
    muted: Muted = lambda *_: None,
    recorded: Fleet | None = None,
    basis: str = "recorded was",
) -> list[NodeHealth]:
    """A row for each node.

    What most nodes have is reckoned from all that answered; what was recorded comes before it.
    """
    facts = [answer.facts for answer in answers if answer.facts]
    most = {c.id: majority(c, facts) if c.source == "fleet" else {} for c in checks}

    def findings(check: Check, facts: Facts) -> Iterator[Finding]:
        return judge(check, facts, most[check.id], (recorded or {}).get(check.id), basis)

    return [_row(answer, checks, findings, muted) for answer in answers]


def _row(
    answer: NodeAnswer,
    checks: Sequence[Check],
    findings: Callable[[Check, Facts], Iterator[Finding]],
    muted: Muted,
) -> NodeHealth:
    if answer.facts is None:
        return NodeHealth(answer.node, fault=answer.fault, elapsed_s=answer.elapsed_s)
    counted: list[Finding] = []
    silenced: list[tuple[Finding, str]] = []
    for check in checks:
        reason = muted(check, answer.node.name)
        for finding in findings(check, answer.facts):
            if reason is None or finding.level is Level.GOOD:
                counted.append(finding)
            else:
                silenced.append((finding, reason))
    return NodeHealth(
        answer.node, tuple(counted), tuple(silenced), elapsed_s=answer.elapsed_s
    )  # fmt: skip


def silences(found: Mapping[str, Silence], today: date) -> tuple[Muted, tuple[str, ...]]:
    """The silences of today as a function, and a note on each that has ended.

    SoractlError for one without a reason, or for a check that there is not.
    """
    notes = []
    in_force: list[tuple[str, str, str]] = []
    for key, silence in found.items():
        name, _, nodes = key.partition("@")
        _known(name, SILENCEABLE)
        if not silence.reason:
            raise SoractlError(f"[health] silence of {key} has no reason", hint='reason = "..."')
        if silence.until and silence.until < today:
            notes.append(f"the silence of {key} ended on {silence.until}: {silence.reason}")
        else:
            in_force.append((name, nodes, silence.reason))

    def muted(check: Check, node: str) -> str | None:
        reasons = (r for name, nodes, r in in_force if _is(check, name) and _has(nodes, node))
        return next(reasons, None)

    return muted, tuple(notes)


def _has(nodes: str, node: str) -> bool:
    if not nodes:
        return True
    from ClusterShell.NodeSet import NodeSet

    return node in NodeSet(nodes)


def _is(check: Check, name: str) -> bool:
    return fnmatchcase(check.id, name) or check.id.startswith(f"{name}.")


def _known(name: str, checks: Sequence[Check]) -> None:
    if any(_is(check, name) for check in checks):
        return
    ids = [check.id for check in checks]
    kinds = dict.fromkeys(one.partition(".")[0] for one in ids)
    near = get_close_matches(name, [*ids, *kinds], 1)
    hint = f"did you mean {near[0]}?" if near else "`soractl health --list` names them"
    raise SoractlError(f"no check {name}", hint=hint)
