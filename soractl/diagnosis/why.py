"""Cause of a failed attempt: the first failing rank, its words, and what they mean. Pure.

What is found has a role: the root cause, cascades of it, and confirmations. Where only cascades
are there, or nothing known, the cause is unknown, since a wrong one costs more than none.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from soractl.diagnosis.signatures import (
    ERRORS,
    KERNEL,
    LOGS,
    OUT_OF_MEMORY,
    XID_ADVICE,
    CauseKind,
    Role,
    matching,
    xid_of,
)
from soractl.health.clock import Measured
from soractl.runs.events import Event, EventKind
from soractl.runs.lost_nodes import VANISHED
from soractl.runs.post_mortem import Failure

KILLED = re.compile(r"killed by (SIG[A-Z]+)")
SILENT_NODE = "the node does not answer"
SIGNAL_CAUSES = {
    "SIGBUS": ("the node's shared memory (/dev/shm) is full, or a file it maps was cut", False),
    "SIGSEGV": ("C code crashed", True),
    "SIGABRT": ("C code gave up", True),
}
UNKNOWN = "unknown"
DIAGNOSE = "`soractl diagnose` says who is waited for, while it hangs"
STOP_S = 5.0
CLOCK_S = 1.0
_OF_A_GPU = re.compile(r"CUDA|NCCL|cuda|nccl")


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    role: Role
    text: str  # its own words
    cause: str
    kind: CauseKind = CauseKind.UNKNOWN
    node: str | None = None
    rank: int | None = None
    advice: tuple[str, ...] = ()
    is_sure: bool = True
    time_unix_s: float | None = None  # by the node's clock
    collective: str = ""  # of a hang, without its number, which restarts with each attempt


@dataclass(frozen=True)
class CaseFile:
    """All that is known of an attempt's end."""

    failure: Failure | None
    accounts: Sequence[Mapping[str, Any]] = ()  # of ranks, the earliest first
    logs: Mapping[str, Sequence[str]] = field(default_factory=dict)  # last lines, by node
    kernel: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of the attempt, by node
    verdict: Mapping[str, Any] | None = None  # of the newest evidence: `verdict.json`
    watched: Event | None = None  # a supervisor's or follower's last word of a hang or a lost node
    full_disks: Mapping[str, Sequence[str]] = field(default_factory=dict)  # by node
    stopped_by: str | None = None  # an operator's command
    requeued: str = ""  # why Slurm was asked to start it again
    stopped_unix_s: float | None = None  # when that was
    evidence: str | None = None  # its folder


@dataclass(frozen=True)
class Explanation:
    """The likely cause, and everything that speaks for it."""

    cause: str
    kind: CauseKind
    certainty: str  # sure, likely or unknown
    root: Finding | None
    others: tuple[Finding, ...]
    evidence: str | None = None

    @property
    def fingerprint(self) -> str:
        """Equal for two exceptions of one kind, or two hangs in one collective; else nothing.

        Numbers do not count. What hardware does is never the same twice.
        """
        if self.root is None or self.kind in (CauseKind.HARDWARE, CauseKind.NETWORK):
            return ""
        is_known = self.kind is not CauseKind.UNKNOWN
        return re.sub(r"\d+", "N", self.root.collective or (self.root.text if is_known else ""))

    @property
    def suspect(self) -> str | None:
        """The node whose hardware failed, or where a signal ended a rank."""
        if self.root is None:
            return None
        is_killed = KILLED.search(self.root.text) is not None
        return self.root.node if is_killed or self.kind is CauseKind.HARDWARE else None


def explain(case: CaseFile) -> Explanation:
    """The cause of an attempt's end; unknown where nothing but cascades is left of it."""
    errors, driver = list(_errors(case)), list(_driver(case))
    found = [
        *driver,
        *errors,
        *_verdict(case),
        *_operator(case),
        *_watched(case),
        *_killed(case),
        *_lost(case),
        *_logs(case),
        *_kernel(case),
        *_clocks(case),
        *_disks(case),
    ]
    root = _root(case, found, errors, driver)
    if root is None:
        return Explanation(
            *("nothing that is left of it names a cause", CauseKind.UNKNOWN, UNKNOWN, None),
            others=tuple(found),
            evidence=case.evidence,
        )
    others = tuple(
        replace(one, role=Role.CONFIRMATION) if one.role is Role.ROOT else one
        for one in found
        if one is not root
    )
    certainty = "sure" if root.is_sure else "likely"
    return Explanation(root.cause, root.kind, certainty, root, others, case.evidence)


def _root(
    case: CaseFile, found: Sequence[Finding], errors: Sequence[Finding], driver: Sequence[Finding]
) -> Finding | None:
    """Errors of ranks before the rest, but a GPU's fault before the errors that follow from it."""
    own = [one for one in errors if one.role is Role.ROOT and not _after_the_stop(case, one)]
    broken = [one for one in driver if one.role is Role.ROOT]
    if broken and all(_OF_A_GPU.search(one.text) for one in own):
        return broken[0]
    left = [one for one in found if one.role is Role.ROOT and one not in (*driver, *errors)]
    return next(iter([*own, *left]), None)


def _after_the_stop(case: CaseFile, error: Finding) -> bool:
    """Ranks that are killed may complain of what the kill did to others."""
    return (
        case.stopped_unix_s is not None
        and error.time_unix_s is not None
        and error.time_unix_s > case.stopped_unix_s - STOP_S
    )


def _operator(case: CaseFile) -> Iterator[Finding]:
    failure = case.failure
    if case.stopped_by or (failure is not None and failure.stopped):
        words = case.stopped_by or f"stopped by {failure.error if failure else ''}"
        cause, advice = "it was stopped on purpose", "`soractl resume` goes on where it was saved"
        if case.requeued and not case.stopped_by:
            words, cause = case.requeued, "the queue: it goes on by itself"
            advice = "nothing: its job has gone back into the queue"
        yield Finding(
            *(Role.ROOT, words, cause, CauseKind.OPERATOR),
            node=failure.node if failure else None,
            advice=(advice,),
        )


def _driver(case: CaseFile) -> Iterator[Finding]:
    """Xids; of the hardware's ones that on the node which failed first is the root."""
    first = case.failure.node if case.failure else None
    found = [
        (node, line, *xid)
        for node, lines in case.kernel.items()
        for line in lines
        if (xid := xid_of(line)) is not None
    ]
    for node, line, number, known in sorted(found, key=lambda one: one[0] != first):
        if known is None:
            yield Finding(Role.CONFIRMATION, line, f"Xid {number}", node=node)
            continue
        advice = XID_ADVICE if known.kind is CauseKind.HARDWARE else ()
        cause = f"{known.meaning} (Xid {number})"
        sure = node == first
        yield Finding(known.role, line, cause, known.kind, node, advice=advice, is_sure=sure)


def _watched(case: CaseFile) -> Iterator[Finding]:
    """A hang that was ended from outside: its ranks were killed, which is not why."""
    event = case.watched
    if event is None:
        return
    cause, kind = "it hung, and no rank could be named", CauseKind.UNKNOWN
    if event.kind == EventKind.LOST:
        cause, kind = "a node was lost", CauseKind.HARDWARE
    yield Finding(Role.ROOT, event.text, cause, kind, event.node, advice=(DIAGNOSE,))


def _killed(case: CaseFile) -> Iterator[Finding]:
    failure = case.failure
    killed = KILLED.search(failure.error) if failure else None
    if failure is None or killed is None:
        return
    where: dict[str, Any] = {"node": failure.node, "rank": failure.rank}
    lines = case.kernel.get(failure.node, ())
    if killed[1] == "SIGKILL":
        if line := next((one for one in lines if OUT_OF_MEMORY.pattern.search(one)), None):
            cause, kind, advice = OUT_OF_MEMORY.cause, OUT_OF_MEMORY.kind, OUT_OF_MEMORY.advice
            yield Finding(Role.ROOT, line, cause, kind, advice=advice, **where)
        else:
            yield Finding(
                *(Role.ROOT, failure.error, "a rank was killed; nothing says by whom"),
                advice=(f"`soractl exec {failure.node} -- dmesg` shows whether the kernel did it",),
                is_sure=False,
                **where,
            )
        return
    cause, is_sure = SIGNAL_CAUSES.get(killed[1], (f"a rank was ended by {killed[1]}", True))
    yield Finding(*(Role.ROOT, failure.error, cause, CauseKind.PROGRAM), is_sure=is_sure, **where)


def _errors(case: CaseFile) -> Iterator[Finding]:
    """Accounts of ranks; the first that does not only complain of another rank is a root."""
    for account in case.accounts:
        words, trace = str(account["error"]), account.get("traceback") or ""
        where: dict[str, Any] = {"node": account.get("node"), "rank": int(account["rank"])}
        where["time_unix_s"] = float(account["time_unix_s"])
        remedy = account.get("remedy") or {}
        if earlier := remedy.get("checkpoint"):
            advice = (f"`soractl resume {earlier}` goes on from the one before it",)
            cause = "the checkpoint to resume from is damaged"
            yield Finding(Role.ROOT, words, cause, CauseKind.DATA, advice=advice, **where)
        elif one := next(matching(words, ERRORS), None):
            yield Finding(
                *(one.role, words, one.cause, CauseKind.REQUEST if remedy else one.kind),
                advice=one.advice,
                is_sure=one.is_sure,
                **where,
            )
        elif remedy or not trace:
            advice = ("correct it, then resume",)
            yield Finding(
                Role.ROOT, words, "the trainer refused", CauseKind.REQUEST, advice=advice, **where
            )
        elif "/torch/distributed/" in _last_file(trace):
            yield Finding(Role.CASCADE, words, "a collective failed", **where)
        elif _is_about_data(trace):
            yield Finding(
                *(Role.ROOT, words, "reading of clips failed", CauseKind.DATA),
                advice=("`soractl data check TABLE` names clips that cannot be read",),
                is_sure=False,
                **where,
            )
        else:
            cause = f"an exception in {_place_of(trace)}"
            yield Finding(Role.ROOT, words, cause, CauseKind.PROGRAM, **where)


def _is_about_data(trace: str) -> bool:
    files = re.findall(r'File "([^"]+)"', trace)
    return bool(files) and any("/trainer/data/" in file for file in files[-3:])


def _last_file(trace: str) -> str:
    files: list[str] = re.findall(r'File "([^"]+)"', trace)
    return files[-1] if files else ""


def _place_of(trace: str) -> str:
    found = re.findall(r'File "(?:.*/)?([^"/]+/[^"/]+)", line (\d+), in (\S+)', trace)
    return "{}:{} {}".format(*found[-1]) if found else "Python"


def _verdict(case: CaseFile) -> Iterator[Finding]:
    """The rank that was waited for, as evidence has it; else as the accounts suggest."""
    if case.verdict is not None:
        found = case.verdict["verdict"]
        if found["kind"] in ("moving", "unseen", "gone"):
            return
        where: dict[str, Any] = {
            "node": next(iter(found["nodes"]), None),
            "rank": next(iter(found["ranks"]), None),
            "collective": _kind_of(found.get("collective")),
        }
        if found["kind"] == "symmetric":
            links = case.verdict.get("links", ())
            cause = "packets are lost between nodes" if links else "all ranks hang together"
            kind = CauseKind.NETWORK if links else CauseKind.UNKNOWN
            words = "; ".join(f"{one['node']} -> {one['peer']}" for one in links) or found["text"]
            yield Finding(Role.ROOT, words, cause, kind, is_sure=bool(links))
            return
        stack = " < ".join(found["where"][:2])
        words = f"{found['text']}{'; it was in ' + stack if stack else ''}"
        yield Finding(Role.ROOT, words, "the others waited for one rank", **where)
        return
    failure = case.failure
    if failure is not None and "waited for it until the collective timeout" in failure.error:
        yield Finding(
            *(Role.ROOT, failure.error, "the others waited for one rank"),
            node=failure.node,
            rank=failure.rank,
            advice=(DIAGNOSE,),
            is_sure=False,
        )


def _kind_of(collective: Mapping[str, Any] | None) -> str:
    return "{name} of the {description} group".format(**collective) if collective else ""


def _lost(case: CaseFile) -> Iterator[Finding]:
    failure = case.failure
    if failure is not None and failure.error == VANISHED:
        yield Finding(
            *(Role.ROOT, failure.error, "all processes of a node ended", CauseKind.HARDWARE),
            node=failure.node,
            advice=(f"`soractl exec {failure.node} -- uptime` shows whether it was restarted",),
            is_sure=False,
        )
    elif failure is not None and SILENT_NODE in failure.error:
        yield Finding(
            *(Role.ROOT, failure.error, "a node was lost", CauseKind.HARDWARE, failure.node),
            advice=(f"`ssh {failure.node}` and look at it; resume without it meanwhile",),
        )


def _logs(case: CaseFile) -> Iterator[Finding]:
    """Findings in logs; one alone there is a root only where no rank gave an account."""
    for node, lines in case.logs.items():
        for line in lines:
            if one := next(matching(line, LOGS), None):
                is_root = one.role is Role.ROOT and not case.accounts
                yield Finding(
                    *(one.role if is_root else Role.CONFIRMATION, line, one.cause, one.kind, node),
                    advice=one.advice,
                    is_sure=one.is_sure,
                )


def _kernel(case: CaseFile) -> Iterator[Finding]:
    for node, lines in case.kernel.items():
        for line in lines:
            for one in matching(line, KERNEL):
                yield Finding(Role.CONFIRMATION, line, one.cause, one.kind, node)


def _clocks(case: CaseFile) -> Iterator[Finding]:
    """A clock that is wrong ends no run here, since none are compared; others may stumble on it."""
    for node, values in (case.verdict or {}).get("clocks", {}).items():
        offset = Measured(**values)
        if offset.surely_above(CLOCK_S):
            words = f"{offset.value:+.1f} s beside this machine's"
            yield Finding(Role.CONFIRMATION, words, "the clock is wrong", node=node)


def _disks(case: CaseFile) -> Iterator[Finding]:
    """Last of all, since a full disk takes the words of those that it ends."""
    for node, folders in case.full_disks.items():
        for folder in folders:
            one = next(matching("No space left on device", ERRORS))
            yield Finding(
                *(Role.ROOT, f"{folder} is full", one.cause, one.kind, node),
                advice=one.advice,
                is_sure=False,
            )
