"""Answers of Slurm about jobs and nodes, and its states and reasons in words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from soractl.queue.interface import Phase, QueueEntry, QueueNode

# -o with these letters has had the same meaning in all versions since 14.03; squeue --json of
# 22.05 ignores --jobs, and its names of fields change from version to version.
FIELDS = "%i|%T|%S|%N|%r"
NODE_FIELDS = "%N|%T|%E"  # of sinfo

DRAINED = ("drain", "drng", "down", "fail")  # begins of states of nodes
AT_LIMIT = "TimeLimit"  # the reason of a job that Slurm ends for it

# EXPEDITING is of 25.11; a state that a later version adds is neither an end nor a wait for nodes.
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
ENDED = (
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"),
    *("DEADLINE", "OUT_OF_MEMORY", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"),
)
PHASES: Mapping[str, Phase] = {
    **dict.fromkeys((*WAITING, "EXPEDITING"), "waiting"),
    **dict.fromkeys(ENDED, "ended"),
    "RUNNING": "running",
    "COMPLETING": "completing",
}
REASONS = {
    "Priority": "jobs of higher priority come first",
    "Resources": "not enough nodes are free",
    "BeginTime": "Slurm waits a while before it starts a requeued job again",
    "Dependency": "it waits for another job",
    "JobHeldUser": "it is held; `scontrol release {job}` lets it start",
    "JobHeldAdmin": "an administrator holds it",
    "JobHoldMaxRequeue": "it was requeued too often; `scontrol release {job}` lets it start",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition does not start jobs now",
    "PartitionNodeLimit": "it asks for more nodes than the partition has or allows",
    "PartitionTimeLimit": "it asks for more time than the partition allows",
    "QOSMaxGRESPerUser": "your GPUs in this QOS are used up",
    "QOSMaxJobsPerUserLimit": "you have as many jobs in this QOS as are allowed",
    "QOSGrpGRES": "the GPUs of this QOS are used up",
    "AssocGrpGRES": "the GPUs of your account are used up",
    "AssocGrpGRESMinutes": "the GPU time of your account is used up",
    "AssocGrpNodeLimit": "the nodes of your account are used up",
    "AssocMaxJobsLimit": "you have as many jobs as your account allows",
    "Licenses": "it waits for a license",
    "Reservation": "its reservation has not begun",
    "InvalidAccount": "the account is not known",
    "InvalidQOS": "the QOS is not known",
    "launch failed requeued held": "no node started it; `scontrol release {job}` tries again",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions": (
        "nodes that it needs are down, drained or reserved"
    ),
}

_FOR_NODES = ("Resources", "ReqNodeNotAvail", "Nodes required", "NodeDown")


@dataclass(frozen=True)
class SlurmEntry(QueueEntry):
    """A job as Slurm's queue shows it.

    >>> parse_squeue("12|PENDING|N/A||Priority\\n").reason_in_words
    'jobs of higher priority come first'
    """

    @property
    def phase(self) -> Phase:
        """Its phase."""
        return PHASES.get(self.state.partition(" ")[0], "suspended")

    @property
    def is_cancelled(self) -> bool:
        """Slurm may add by whom."""
        return self.state.startswith("CANCELLED")

    @property
    def at_limit(self) -> bool:
        """Slurm ends it for its time limit."""
        return self.reason == AT_LIMIT

    @property
    def lacks_nodes(self) -> bool:
        """It waits, and drained nodes may be why."""
        return self.is_waiting and (self.reason or "").startswith(_FOR_NODES)

    @property
    def reason_in_words(self) -> str | None:
        """Reason of its wait; one that is not known is shown as it is."""
        if not self.reason:
            return None
        known = REASONS.get(self.reason) or REASONS.get(self.reason.partition(",")[0].strip("()"))
        return known.format(job=self.job_id) if known else self.reason


@dataclass(frozen=True)
class SlurmNode(QueueNode):
    """A node as Slurm knows it; its state is a word such as idle, mixed, drained, down*.

    >>> SlurmNode("n1", "drained", "soractl: gpu.ecc (GPU 3)").is_drained
    True
    """

    @property
    def is_drained(self) -> bool:
        """No job starts on it."""
        return self.state.startswith(DRAINED)

    @property
    def is_down(self) -> bool:
        """It does not answer Slurm."""
        return self.state.startswith("down")

    @property
    def state_in_words(self) -> str:
        """Without the signs that Slurm adds."""
        return self.state.rstrip("*~#$@+-")


def parse_squeue(text: str) -> SlurmEntry | None:
    """The entry of an answer in `FIELDS`; None for an empty one. ValueError for another form."""
    return next(iter(parse_all(text)), None)


def parse_all(text: str) -> list[SlurmEntry]:
    """All entries of such an answer."""
    return [_entry(line) for line in text.splitlines()]


def _number(job_id: str) -> int:
    """A job's own number, without the part of an array or of a heterogeneous job.

    >>> _number("12"), _number("12_[1-4]"), _number("12+0")
    (12, 12, 12)
    """
    found = re.match(r"\d+", job_id)
    if found is None:
        raise ValueError(f"no id of a job: {job_id!r}")
    return int(found[0])


def _entry(line: str) -> SlurmEntry:
    job_id, state, start, nodes, reason = line.split("|", 4)
    return SlurmEntry(
        _number(job_id),
        state,
        reason=None if reason in ("None", "") else reason,
        nodes=nodes or None,
        start=None if start in ("N/A", "Unknown", "") else start,
    )


def parse_sinfo(text: str) -> list[SlurmNode]:
    """Nodes of an answer in `NODE_FIELDS`; one that is in several partitions comes once.

    >>> parse_sinfo("n1|drained|Xid 79\\nn2|idle|none\\nn1|drained|Xid 79\\n")[0].reason
    'Xid 79'
    """
    rows = (line.split("|", 2) for line in dict.fromkeys(text.splitlines()))
    return [
        SlurmNode(name, state, None if reason in ("none", "") else reason)
        for name, state, reason in rows
    ]
