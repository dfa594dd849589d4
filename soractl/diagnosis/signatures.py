"""Signatures of causes as data: what a failure prints, what it means, and what to type.

A signature is looked for in one kind of source. Its role is ROOT (it may have ended the run),
CASCADE (others complain of a broken connection) or CONFIRMATION (it fits a root cause that
something else has shown). Xids: `cluster/xids`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from soractl.cluster import xids
from soractl.cluster.xids import Subject


class Role(StrEnum):
    """Roles of what was found."""

    ROOT = "root"
    CASCADE = "cascade"
    CONFIRMATION = "confirmation"


class Source(StrEnum):
    """Sources in which signatures are looked for."""

    ERROR = "error"  # a rank's own account of its failure, or the reason of the first failure
    LOG = "log"  # the last lines of a node's log
    KERNEL = "kernel"  # kernel messages of a node, from the time of the attempt


class CauseKind(StrEnum):
    """Classes of causes; a restart cures hardware, perhaps a program, never a request."""

    HARDWARE = "hardware"
    NETWORK = "network"
    PROGRAM = "program"
    DATA = "data"
    REQUEST = "request"
    DISK = "full disk"
    OPERATOR = "operator"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Signature:
    """One line of the list."""

    cause: str
    pattern: re.Pattern[str]
    source: Source
    role: Role = Role.ROOT
    kind: CauseKind = CauseKind.UNKNOWN
    advice: tuple[str, ...] = ()
    is_sure: bool = True  # else `why` calls it likely


def _of(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


ERRORS = (
    Signature(
        "the memory of a GPU ran out",
        _of(
            r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory"
            r"|Cuda failure (?:2 )?'out of memory'"
        ),
        Source.ERROR,
        kind=CauseKind.PROGRAM,
        advice=(
            "make that bucket's batch smaller (buckets.batch_size), or set "
            "model.grad_checkpoint=every_block",
            "`soractl gpus` shows whether another process holds memory there",
        ),
    ),
    Signature(
        "a disk is full",
        _of(r"No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]"),
        Source.ERROR,
        kind=CauseKind.DISK,
        advice=("make room there, then resume; `soractl ckpt prune` removes old checkpoints",),
    ),
    Signature(
        "a GPU failed",
        _of(
            r"uncorrectable (?:ECC|NVLink)|fallen off the bus|GPU is lost"
            r"|CUDA error: hardware stack error"
        ),
        Source.ERROR,
        kind=CauseKind.HARDWARE,
        advice=("leave the node out of the host file, and have its GPU looked at",),
    ),
    Signature(
        "a program's fault on a GPU",
        _of(r"CUDA error: (?:an illegal memory access|device-side assert|misaligned address)"),
        Source.ERROR,
        kind=CauseKind.PROGRAM,
        advice=("if it comes back with CUDA_LAUNCH_BLOCKING=1 in [env], its traceback is exact",),
        is_sure=False,  # a broken GPU can do that too
    ),
    Signature(
        "a GPU gave an error that says no more",
        _of(
            r"CUDA error: (?:unknown error|unspecified launch failure)"
            r"|CU(?:BLAS|DNN)_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR)"
        ),
        Source.ERROR,
        advice=("`soractl exec NODE -- dmesg` shows whether its driver noted an Xid",),
        is_sure=False,
    ),
    Signature(
        "no GPU can be used on the node",
        _of(
            r"No CUDA GPUs are available|CUDA driver initialization failed|no CUDA-capable device"
            r"|system not yet initialized|CUDA-capable device\(s\) is/are busy"
        ),
        Source.ERROR,
        kind=CauseKind.HARDWARE,
        advice=("`soractl gpus` shows what its driver says",),
        is_sure=False,  # CUDA_VISIBLE_DEVICES can hide them as well
    ),
    Signature(
        "the file system failed",
        _of(
            r"Stale file handle|Input/output error|\[Errno 5\]|\[Errno 116\]|Read-only file system"
        ),
        Source.ERROR,
        kind=CauseKind.HARDWARE,
        advice=("look at the file server and at the node's mount",),
    ),
    Signature(
        "the node's memory ran out",
        _of(r"(?<![A-Za-z])MemoryError|\[Errno 12\]|can't allocate memory|Cannot allocate memory"),
        Source.ERROR,
        kind=CauseKind.PROGRAM,
        advice=("lower data.workers or data.prefetch, or see what else runs there",),
    ),
    Signature(
        "a limit of the system was reached",
        _of(r"Too many open files|\[Errno 24\]|can't start new thread|\[Errno 11\]"),
        Source.ERROR,
        kind=CauseKind.REQUEST,
        advice=("raise it on the nodes (`ulimit -n`, `ulimit -u`), or lower data.workers",),
        is_sure=False,
    ),
    Signature(
        "a server could not be reached",
        _of(r"Max retries exceeded with url|[Nn]ame resolution|Name or service not known"),
        Source.ERROR,
        kind=CauseKind.NETWORK,
        advice=("fetch models and data beforehand; WANDB_MODE=offline needs no server",),
        is_sure=False,
    ),
    Signature(
        "ranks could not meet at the start",
        _of(r"RendezvousTimeoutError|RendezvousConnectionError|waiting for clients|EADDRINUSE"),
        Source.ERROR,
        kind=CauseKind.NETWORK,
        advice=("`soractl launch STAGE --dry-run` checks that the nodes reach the head's port",),
        is_sure=False,
    ),
    Signature(
        "a package is missing or does not fit",
        _of(r"ModuleNotFoundError|ImportError|cannot open shared object file"),
        Source.ERROR,
        kind=CauseKind.REQUEST,
        advice=("`pip install '.[train]'` where training is installed",),
    ),
    Signature(
        "access was refused",
        _of(
            r"GatedRepoError|40[13] Client Error|\[Errno 13\]|PermissionError"
            r"|AuthenticationError|api_key not configured|Unauthorized"
        ),
        Source.ERROR,
        kind=CauseKind.REQUEST,
        advice=(
            "log in on the nodes (`hf auth login`, `wandb login`), or make the files readable",
        ),
    ),
    Signature(
        "a file of weights is cut off or damaged",
        _of(
            r"SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|PytorchStreamReader failed"
            r"|UnpicklingError"
        ),
        Source.ERROR,
        kind=CauseKind.DATA,
        advice=("`soractl ckpt verify` checks a run's own; others must be fetched again",),
    ),
    Signature(
        "processes that read clips ended",
        _of(r"process that reads clips does not start"),
        Source.ERROR,
        kind=CauseKind.DATA,
        advice=("`soractl data check TABLE` finds clips that end a decoder",),
    ),
    Signature(
        "NCCL could not use the network",
        _of(r"ncclSystemError|unhandled system error"),
        Source.ERROR,
        kind=CauseKind.NETWORK,
        advice=("NCCL_DEBUG=INFO in [env] says which call failed",),
        is_sure=False,
    ),
    Signature(
        "a collective timed out",
        _of(
            r"Watchdog caught collective operation timeout|Timed out waiting \d+ ?ms"
            r"|[Tt]imed out after \d+|waited for it until the collective timeout"
            r"|Timeout\(ms\)|wait timeout after \d+ms"
        ),
        Source.ERROR,
        Role.CASCADE,
    ),
    Signature(
        "a connection to another rank broke",
        _of(
            r"Connection (?:reset|closed|refused)|Connection aborted|Broken pipe|Socket closed"
            r"|closed by (?:remote )?peer|remote process exited|ncclRemoteError|recvBytes failed"
            r"|failed to (?:send|recv)|[Pp]eer closed|NCCL communicator was aborted"
            r"|Dist(?:Backend|Network|Store)Error|gloo/transport"
        ),
        Source.ERROR,
        Role.CASCADE,
    ),
)

LOGS = (
    Signature(
        "a checkpoint could not be written",
        _of(r"checkpoint \S+ given up, training goes on: "),
        Source.LOG,
        Role.CONFIRMATION,
    ),
    Signature(
        "a disk is full",
        _of(
            r"^(?!.*training goes on: ).*"
            r"(?:No space left on device|\[Errno 28\]|Disk quota exceeded|\[Errno 122\])"
        ),
        Source.LOG,
        kind=CauseKind.DISK,
        advice=("make room there, then resume; `soractl ckpt prune` removes old checkpoints",),
        is_sure=False,
    ),
    Signature(
        "torchrun was refused its port",
        _of(r"EADDRINUSE|[Aa]ddress already in use"),
        Source.LOG,
        kind=CauseKind.REQUEST,
        advice=("another run may hold it: set master_port in the cluster's file",),
        is_sure=False,  # what is left of the last attempt lets it go soon
    ),
    Signature(
        "ranks could not meet at the start",
        _of(r"RendezvousTimeoutError|RendezvousConnectionError"),
        Source.LOG,
        kind=CauseKind.NETWORK,
        advice=("`soractl launch STAGE --dry-run` checks that the nodes reach the head's port",),
        is_sure=False,
    ),
    Signature(
        "a program is missing on the node",
        _of(
            r"(?:colossalai|torchrun): (?:command )?not found|No such file or directory: 'torchrun'"
        ),
        Source.LOG,
        kind=CauseKind.REQUEST,
        advice=("set environment in the cluster's file to the folder of the node's python",),
    ),
    Signature(
        "a package is missing or does not fit",
        _of(r"^(?:ModuleNotFoundError|ImportError): "),
        Source.LOG,
        kind=CauseKind.REQUEST,
        advice=("`pip install '.[train]'` where training is installed",),
    ),
)

OUT_OF_MEMORY = Signature(
    "the kernel killed a process, since the node's memory ran out",
    _of(r"[Oo]ut of memory: Killed process (?P<pid>\d+)|oom-kill:"),
    Source.KERNEL,
    Role.CONFIRMATION,  # a root where a rank of that node was killed
    CauseKind.PROGRAM,
    ("lower data.workers or data.prefetch, or see what else runs there with `soractl exec`",),
)
KERNEL = (
    OUT_OF_MEMORY,
    Signature(
        "the file server does not answer",
        _of(r"nfs: server \S+ not responding"),
        Source.KERNEL,
        Role.CONFIRMATION,
        CauseKind.HARDWARE,
        ("look at the file server",),
    ),
    Signature(
        "a disk gives errors",
        _of(r"I/O error, dev |Buffer I/O error"),
        Source.KERNEL,
        Role.CONFIRMATION,
        CauseKind.HARDWARE,
        ("look at the node's disk",),
    ),
    Signature(
        "a network port lost its link",
        _of(r"\blink is (?:down|not ready)|NIC Link is Down"),
        Source.KERNEL,
        Role.CONFIRMATION,
        CauseKind.NETWORK,
        ("look at the node's cable and switch port",),
    ),
)


@dataclass(frozen=True)
class XidClass:
    """A class of the driver's errors, as causes of failures."""

    meaning: str
    role: Role
    kind: CauseKind


XIDS = {
    subject: XidClass(str(subject), role, kind)
    for subject, role, kind in (
        (Subject.BUS, Role.ROOT, CauseKind.HARDWARE),
        (Subject.MEMORY, Role.ROOT, CauseKind.HARDWARE),
        (Subject.LINK, Role.ROOT, CauseKind.HARDWARE),
        (Subject.PROCESSOR, Role.ROOT, CauseKind.HARDWARE),
        (Subject.PROGRAM, Role.CONFIRMATION, CauseKind.PROGRAM),
        (Subject.CASCADE, Role.CASCADE, CauseKind.UNKNOWN),
    )
}
XIDS[Subject.CONTAINED] = XIDS[Subject.MEMORY]  # the run is the program that it ended
XID_ADVICE = ("leave the node out of the host file, and have that GPU looked at or reset",)


def xid_of(line: str) -> tuple[int, XidClass | None] | None:
    """Number and class of a kernel message, if it is the driver's; None for one without a class.

    >>> xid_of("NVRM: Xid (PCI:0000:06:00): 79, pid=1, GPU has fallen off the bus.")[0]
    79
    """
    found = xids.xid_of(line)
    if found is None:
        return None
    number, xid = found
    return number, XIDS.get(xid.subject) if xid else None


def matching(text: str, signatures: tuple[Signature, ...]) -> Iterator[Signature]:
    """The signatures of a list that a text carries, in the list's order."""
    return (one for one in signatures if one.pattern.search(text))
