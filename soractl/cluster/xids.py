"""Xids, errors of NVIDIA's driver in the kernel's messages: what each means and asks for. Pure.

The classes are the immediate actions of NVIDIA's own catalogue, edition of 2025-10-29
(https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html): 63 and 92 are notices, and
94 ends one program. `WORKFLOW` stands for the procedures that it names for single errors.
"""

import re
from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """The action that an Xid asks for."""

    NONE = "nothing"
    RESTART_PROGRAM = "start the program again"
    RESET_GPU = "reset the GPU"
    RESTART_NODE = "restart the node"
    WORKFLOW = "reset the GPU, and have it looked at if it comes back"


class Subject(StrEnum):
    """The thing of which an Xid speaks."""

    BUS = "a GPU fell off the bus"
    MEMORY = "uncorrectable memory error of a GPU"
    CONTAINED = "memory error of a GPU that ended one program"
    LINK = "NVLink error"
    PROCESSOR = "a GPU's own processor stopped"
    PROGRAM = "a fault of the program on a GPU"
    CASCADE = "cleaning up after another error"
    NOTICE = "a notice of a GPU"
    RECOVERY = "a GPU asks for another way of recovery"


@dataclass(frozen=True)
class Xid:
    """One kind of error."""

    number: int
    action: Action
    subject: Subject


def _all(action: Action, subject: Subject, *numbers: int) -> tuple[Xid, ...]:
    return tuple(Xid(number, action, subject) for number in numbers)


XIDS = {
    xid.number: xid
    for xid in (
        *_all(Action.RESTART_NODE, Subject.BUS, 79),
        *_all(Action.RESET_GPU, Subject.MEMORY, 64, 95, 140),
        *_all(Action.WORKFLOW, Subject.MEMORY, 48),
        *_all(Action.RESTART_PROGRAM, Subject.CONTAINED, 94),
        *_all(Action.WORKFLOW, Subject.LINK, 74, 144, 145, 146, 147, 148, 149, 150),
        *_all(Action.RESET_GPU, Subject.PROCESSOR, 46, 62, 109, 119, 120, 143),
        *_all(Action.NONE, Subject.PROCESSOR, 61),
        *_all(Action.RESTART_PROGRAM, Subject.PROGRAM, 13, 31, 68, 69),
        *_all(Action.NONE, Subject.PROGRAM, 43),
        *_all(Action.WORKFLOW, Subject.CASCADE, 45),
        *_all(Action.NONE, Subject.NOTICE, 63, 92, 137),
        *_all(Action.WORKFLOW, Subject.RECOVERY, 154),
    )
}
LINE = re.compile(r"NVRM: Xid \(PCI:(?P<gpu>[0-9a-fA-F:.]+)[^)]*\): (?P<number>\d+)")


def xid_of(line: str) -> tuple[int, Xid | None] | None:
    """Number and kind of a kernel message, if it is the driver's; None for a number not known.

    >>> xid_of("NVRM: Xid (PCI:0000:06:00): 79, pid=1, GPU has fallen off the bus.")[1].action.value
    'restart the node'
    """
    found = LINE.search(line)
    if found is None:
        return None
    number = int(found["number"])
    return number, XIDS.get(number)
