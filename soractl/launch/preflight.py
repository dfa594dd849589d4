"""Preflight: facts of every node before anything is started there, and the faults in them."""

import shlex
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from soractl.cluster.gpus import BUSY_BYTES, NodeGpus, read_gpus
from soractl.errors import ExitCode, FaultKind, SoractlError, raise_if_interrupted
from soractl.health import checks_launch
from soractl.health.check import Finding, Level, majority
from soractl.health.checks_launch import INSTALL
from soractl.health.examine import (
    Muted,
    NodeAnswer,
    NodeHealth,
    answer_of,
    choose,
    judge_nodes,
    silences,
)
from soractl.health.facts import Facts
from soractl.health.health_report import sentences
from soractl.launch.plan import TRAIN_SCRIPT, LaunchPlan, NodePlan
from soractl.launch.prepare import Prepared
from soractl.remote.fan_out import everywhere
from soractl.remote.folding import fold_lines, fold_names
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import quick_python, script, sections, variables
from soractl.runs.lost_nodes import resume_on
from soractl.terminal import text

DEADLINE_S = 20.0
PACKAGES = ("torch", "colossalai")
LOST = (FaultKind.UNREACHABLE, FaultKind.DEADLINE)
READY = script("soractl.launch", "ready.sh")
PROBE = script("soractl.launch", "probe.py")
HEALTH = script("soractl.health", "probe.sh")
CHECKS = (*choose((), (), "launch"), *checks_launch.CHECKS)
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
# Of the hardware only what ranks surely fail on is in the way of a start; the rest is noted.
REFUSING = {check.id for check in checks_launch.CHECKS if check.level is Level.BAD} | {
    *("gpu.driver", "gpu.answers", "gpu.on_bus", "gpu.remap_pending", "gpu.remap_failed"),
    *("gpu.unrepairable", "gpu.recovery", "gpu.compute_mode", "gpu.nvlink_down"),
    *("gpu.fabric", "gpu.fabric_status", "gpu.fabric_manager"),
}

# What a node runs: the answer of each part waits in a pipe until the one before it is whole.
ASK = """\
stamp() { date +%s.%N; printf '=== %s 0\\n' "$1"; }
stamp arrived
sh -c @HEALTH sh @LIMIT < /dev/null | {
  sh -c @LAUNCH 2>&1 < /dev/null
  printf '\\n=== launch %s\\n' $?
  sh -c @PLACES 2>&1 < /dev/null
  printf '\\n=== places %s\\n' $?
  cat
}
stamp left
"""


@dataclass(frozen=True)
class Findings:
    """Faults against starting, a sentence each, and what is odd."""

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hint: str | None = None


@dataclass(frozen=True)
class Asked:
    """Questions to the nodes of a plan."""

    plan: LaunchPlan
    marker: Path  # a file that was written here just now, ...
    is_marked: bool = True  # ... if that was possible
    places: bool = True  # also whether another run uses the GPUs
    beside: Mapping[str, Any] | None = None  # more of what launch/probe.py answers
    facts: Mapping[str, str] | None = None  # what is known here, for each node
    deadline_s: float = DEADLINE_S


def check(prepared: Prepared, remote: Remote, *, force: bool = False) -> Sequence[str]:
    """Notes about the nodes, which `force` does not ask.

    SoractlError: exit code 6 for what is missing here, 5 for every fault of every node.
    """
    if prepared.missing:
        raise SoractlError(
            "missing: " + "; ".join(prepared.missing),
            hint=prepared.where_data_come_from,
            exit_code=ExitCode.NOTHING_SUITABLE,
        )
    found = Findings() if force else examine(prepared.plan, remote)
    if found.faults:
        raise SoractlError(
            "not started:\n" + "\n".join(f"  {fault}" for fault in found.faults),
            hint=found.hint,
            exit_code=ExitCode.REFUSED,
        )
    return found.notes


def examine(plan: LaunchPlan, remote: Remote) -> Findings:
    """Findings of all nodes; Interrupted at Ctrl-C."""
    muted, ended = silences(plan.cluster.health.silence, date.today())
    try:
        with marker_in(plan.run.parent) as marker:
            answers = ask(Asked(plan, marker), remote)
    except OSError as error:
        return Findings((str(cannot_write(plan.run.parent, error)),))
    raise_if_interrupted((answer.fault for answer in answers), "nothing was started")
    faults, notes = judge(plan, answers, muted)
    if not faults:
        nodes = [node.node for node in plan.nodes]
        rows = read_gpus(nodes, remote, deadline_s=DEADLINE_S)
        raise_if_interrupted((row.fault for row in rows), "nothing was started")
        faults = judge_gpus(plan, rows)
    hint = hint_of(plan, answers) if faults else None
    return Findings(tuple(faults), (*notes, *ended), hint)


def unfit_to_join(plan: LaunchPlan, remote: Remote) -> dict[str, str]:
    """Reasons for which nodes of a plan cannot join what its head runs already, by their names.

    A folder that cannot be written is this machine's fault: then nothing is known of theirs.
    """
    try:
        with marker_in(plan.run.parent) as marker:
            answers = ask(Asked(plan, marker), remote)
    except OSError:
        return {}
    rows = read_gpus([node.node for node in plan.nodes], remote, deadline_s=DEADLINE_S)
    return judge_joining(plan, answers, rows)


def judge_joining(
    plan: LaunchPlan, answers: Sequence[NodeAnswer], rows: Sequence[NodeGpus]
) -> dict[str, str]:
    """Faults of each node but the head, which is in use and only compared with."""
    joining = replace(plan, nodes=plan.nodes[1:])
    muted, _ = silences(plan.cluster.health.silence, date.today())
    head = [answers[0].facts] if answers[0].facts else []
    own = {check.id: majority(check, head) for check in CHECKS if check.id == "same.versions"}
    found = list(_gpu_faults(joining, rows[1:])) if any(row.gpus for row in rows) else []
    judged = judge_nodes(answers[1:], CHECKS, muted, own, "the run has")
    for node, row in zip(joining.nodes, judged, strict=True):
        found += ((node.node.name, sentence) for sentence in _faults(node, row))
    return {name: "; ".join(f for n, f in found if n == name) for name, _ in found}


def cannot_write(folder: Path, error: OSError) -> SoractlError:
    """The error for a folder that is read-only, or on a full disk."""
    why = error.strerror or type(error).__name__
    return SoractlError(f"cannot write to {folder}: {why}", exit_code=ExitCode.REFUSED)


def ask(asked: Asked, remote: Remote) -> list[NodeAnswer]:
    """Facts of all nodes, in their order; one round trip each."""
    by_name = {node.node.name: node for node in asked.plan.nodes}
    found = everywhere(
        [node.node for node in asked.plan.nodes],
        lambda node: _ask(asked, by_name[node.name], remote),
        lambda node, fault: NodeAnswer(node, fault=fault),
        deadline_s=asked.deadline_s + 5,
    )
    return with_twins(found)


def judge(
    plan: LaunchPlan, answers: Sequence[NodeAnswer], muted: Muted
) -> tuple[list[str], list[str]]:
    """Faults against starting, and what is odd; equal ones of many nodes are one line."""
    rows = judge_nodes(answers, CHECKS, muted)
    faults: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    for node, row in zip(plan.nodes, rows, strict=True):
        name = node.node.name
        others = tuple(finding for finding in row.findings if not _refuses(finding, node))
        clocks = tuple(finding for finding in others if finding.check.id == "time.offset")
        faults += ((name, sentence) for sentence in _faults(node, row))
        notes += ((name, text) for _, text in sentences(_with(row, others), Level.BAD))
        notes += ((name, text) for _, text in sentences(_with(row, clocks), Level.WARNING))
    return fold_lines(faults), fold_lines(notes)


def _faults(node: NodePlan, row: NodeHealth) -> Iterator[str]:
    if row.fault:
        yield str(row.fault)
    refusing = tuple(finding for finding in row.findings if _refuses(finding, node))
    yield from (sentence for _, sentence in sentences(_with(row, refusing), Level.BAD))


def _refuses(finding: Finding, node: NodePlan) -> bool:
    # without a number the finding is of the node's driver: no GPU could be asked
    of_one_gpu = finding.check.of == "gpu" and finding.item.isdecimal()
    is_used = not of_one_gpu or int(finding.item) in _used_gpus(node)
    return finding.check.id in REFUSING and is_used


def _with(row: NodeHealth, findings: tuple[Finding, ...]) -> NodeHealth:
    return replace(row, findings=findings)


def judge_gpus(plan: LaunchPlan, rows: Sequence[NodeGpus]) -> list[str]:
    """GPUs that are missing, broken or in use; without any GPU on any node it is a CPU run."""
    return fold_lines(_gpu_faults(plan, rows)) if any(row.gpus for row in rows) else []


def _gpu_faults(plan: LaunchPlan, rows: Sequence[NodeGpus]) -> Iterator[tuple[str, str]]:
    for node, row in zip(plan.nodes, rows, strict=True):
        name = node.node.name
        used = _used_gpus(node)
        busy = {process.gpu_index for process in row.processes} & used
        busy |= {
            gpu.index
            for gpu in row.gpus
            if gpu.index in used and (gpu["mem_used_bytes"] or 0) > BUSY_BYTES
        }
        if row.fault:
            yield name, str(row.fault)
        elif len(row.gpus) < len(used):
            notes = "".join(f"; {note}" for note in row.notes)
            yield name, f"{len(row.gpus)} of {len(used)} GPUs{notes}"
        elif busy:
            who = ", ".join(row.run_ids or row.users)
            yield name, f"{text.count(len(busy), 'GPU')} in use{f' by {who}' if who else ''}"


def _used_gpus(node: NodePlan) -> set[int | None]:
    if node.gpus and all(index.isdecimal() for index in node.gpus):
        return {int(index) for index in node.gpus}
    return set(range(node.ranks))


def request_to(asked: Asked, node: NodePlan) -> Request:
    """All that one node is asked."""
    plan, path = asked.plan, node.environment["PATH"]
    ready = variables(path=path, folder=str(plan.workdir), file=str(TRAIN_SCRIPT)) + READY
    question = {
        "marker": str(asked.marker),
        "head": plan.head,
        "port": plan.port,
        "code": str(TRAIN_SCRIPT.parent),
        "packages": PACKAGES,
        **(asked.beside or {}),
    }
    names = question.get("names", ())
    question["names"] = [name for name in names if name != node.node.name]
    question["cache"] = _cache_of(node.environment)
    if node.node_rank > 0:
        question.pop("wandb", None)  # rank 0 alone logs in
    look = plan.reservation(node, attempt=0).look(path) if asked.places else ""
    parts = {
        "HEALTH": HEALTH,
        "LIMIT": f"{asked.deadline_s * 0.7:.1f}",
        "LAUNCH": ready + quick_python(PROBE, question, path),
        "PLACES": look,
    }
    program = ASK
    for name, part in parts.items():
        program = program.replace(f"@{name}", shlex.quote(part), 1)
    return Request(("sh", "-s"), program)


def _cache_of(environment: Mapping[str, str]) -> str:
    """The cache of Hugging Face as its library finds it."""
    home = environment.get("HF_HOME", "~/.cache/huggingface")
    return environment.get("HF_HUB_CACHE", f"{home}/hub")


def _ask(asked: Asked, node: NodePlan, remote: Remote) -> NodeAnswer:
    sent_unix_s = time.time()
    result = remote(node.node, request_to(asked, node), asked.deadline_s)
    answer = answer_of(result)
    if not answer.facts:
        return answer
    offset_s = clock_offset_s(result, sent_unix_s, time.time())
    return replace(answer, facts=_completed(answer.facts, result, asked, node, offset_s))


def _completed(
    facts: Facts, result: NodeResult, asked: Asked, node: NodePlan, offset_s: float | None
) -> Facts:
    """Facts with what is known here of the node's part in the plan."""
    plan = asked.plan
    says = _say(result, "launch")
    items = {**facts.items, "ready": {"": {"says": says}}}
    if says != "ok":
        return Facts({k: v for k, v in items.items() if k not in _OF_PROBE}, facts.missing)
    used = _say(result, "places")
    is_head = node.node == plan.nodes[0].node
    fields = {
        **facts.of("launch").get("", {}),
        **(asked.facts or {}),
        "folder": str(plan.run.parent),
        "head": plan.head,
        "is head": "yes" if is_head else "no",
        "port number": str(plan.port),
        "interface": "named" if any(node.environment.get(n) for n in INTERFACES) else "any",
        "clock limit": str(plan.cluster.clock.max_offset_ms),
        "clock offset": "?" if offset_s is None else f"{offset_s:.6f}",
        "used": "no" if used == "ok" else used,
    }
    if asked.is_marked:
        fields["shared"] = "yes" if fields.get("marker") == asked.marker.name else "no"
    if not is_head or fields["used"] != "no":
        fields.pop("port", None)
    return Facts({**items, "launch": {"": fields}}, facts.missing)


_OF_PROBE = ("launch", "version", "packages", "name", "weights", "data", "features", "wandb")


def _say(result: NodeResult, part: str) -> str:
    """`ok`, or why a part of the answer failed."""
    answer, code = sections(result.stdout).get(part, ("", 1))
    return "ok" if code == 0 else NodeResult(result.node, stderr=answer, exit_code=code).reason


def clock_offset_s(result: NodeResult, sent_unix_s: float, back_unix_s: float) -> float | None:
    """Offset of a node's clock beyond doubt, by its times of the question and of the answer.

    0.0 where it may be none, None where the node did not say.
    """
    found = sections(result.stdout)
    try:
        arrived_unix_s, left_unix_s = (
            float(found[name][0].split()[-1]) for name in ("arrived", "left")
        )
    except (KeyError, ValueError, IndexError):
        return None
    most = arrived_unix_s - sent_unix_s
    least = left_unix_s - back_unix_s
    return max(least, 0.0) + min(most, 0.0)


def with_twins(answers: Sequence[NodeAnswer]) -> list[NodeAnswer]:
    """Each node with the name of an earlier one that is the same machine, or `none`."""
    first: dict[str, str] = {}
    return [_with_twin(answer, first) for answer in answers]


def _with_twin(answer: NodeAnswer, first: dict[str, str]) -> NodeAnswer:
    fields = answer.facts.of("launch").get("") if answer.facts else None
    if not answer.facts or not fields or "machine" not in fields:
        return answer
    earlier = first.setdefault(fields["machine"], answer.node.name)
    twin = "none" if earlier == answer.node.name else earlier
    items = {**answer.facts.items, "launch": {"": {**fields, "twin": twin}}}
    return replace(answer, facts=Facts(items, answer.facts.missing))


@contextmanager
def marker_in(folder: Path) -> Iterator[Path]:
    """A file in the folder of runs that nodes look for; nothing of it stays."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f".preflight-{uuid.uuid4().hex}"
    try:
        marker.write_text(marker.name)
        yield marker
    finally:
        marker.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # another launch has made a run there
                folder.rmdir()


def hint_of(plan: LaunchPlan, answers: Sequence[NodeAnswer]) -> str | None:
    """The next thing to type; some faults are in the way of `--force` too."""
    lost = [one.node.name for one in answers if one.fault and one.fault.kind in LOST]
    left = [one.node for one in answers if one.node.name not in lost]
    if plan.start.kind == "resume" and lost and left:
        return f"`{resume_on(plan.run.name, left)}` goes on without {fold_names(lost)}"
    facts = [one.facts for one in answers if one.facts]
    words = ("no colossalai in ", "no torchrun in ", "no python3 in ")
    if any((one.one("ready", "says") or "").startswith(words) for one in facts):
        return f"{INSTALL} install them"
    if any(one.one("launch", "used") not in (None, "no") for one in facts):
        return None
    return "`soractl doctor` has a remedy for each; --force starts all the same"
