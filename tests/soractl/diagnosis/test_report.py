from dataclasses import replace
from pathlib import Path

from soractl.diagnosis.culprit import Verdict, VerdictKind
from soractl.diagnosis.evidence import Evidence
from soractl.diagnosis.examination import Examination
from soractl.diagnosis.flight_recorder import Look
from soractl.diagnosis.node_facts import NodeFacts
from soractl.diagnosis.report import evidence_lines, stacks_json, stacks_lines
from soractl.diagnosis.stacks import Stacks
from soractl.errors import Fault, FaultKind
from soractl.health.clock import Measured
from tests.soractl.diagnosis.test_node_facts import SOCKETS
from tests.soractl.diagnosis.test_stacks import process

WAITING = [process(rank, "wait") for rank in (0, 2, 3)]
ODD = replace(process(1, "sleep", node="n2"), flags=("Has the GIL",))


def test_stacks_are_shown_once_with_their_ranks_and_what_stands_still():
    before, now = Stacks((*WAITING, process(1, "read", node="n2"))), Stacks((*WAITING, ODD))
    assert stacks_lines(now, before, 2.0) == [
        "rank 1 on n2, main thread (process 101, state S), has the gil:",
        "    trainer/step.py:1 sleep",
        "ranks 0,2-3 on n1, main thread, the same 2 s before:",
        "    trainer/step.py:1 wait",
    ]
    assert [len(one) for one in stacks_json(now, before)["rounds"]] == [4, 4]
    assert len(stacks_json(now)["rounds"]) == 1


def test_stacks_say_what_could_not_be_read_and_what_to_type():
    fault = Fault(FaultKind.UNREACHABLE, "no route")
    notes = ("n1: py-spy is not installed there", "n2: tracing is forbidden (ptrace_scope 2)")
    assert stacks_lines(Stacks((), {"n3": fault}, notes)) == [
        "n3: unreachable: no route",
        *notes,
        "install it where training is installed: `pip install py-spy pystack`; until then, "
        "the ranks' own stacks are shown",
        "allow it there: `sudo sysctl kernel.yama.ptrace_scope=0`, or --cap-add SYS_PTRACE for a "
        "container; until then, the ranks' own stacks are shown",
    ]
    assert stacks_lines(Stacks(())) == ["no rank runs"]


def test_a_diagnosis_begins_with_the_verdict_and_ends_with_the_folder():
    look = Look((), 0.0)
    verdict = Verdict(VerdictKind.GONE, (1,), ("n2",), where=("a", "b", "c", "d"), reason="gone")
    facts = (
        NodeFacts("n1", {"sockets": SOCKETS, "addresses": "10.77.0.11"}),
        NodeFacts("n2", {"kernel": "old\nNVRM: Xid 79\n", "addresses": "10.77.0.13"}),
        NodeFacts("n3", fault=Fault(FaultKind.DEADLINE)),
    )
    stacks = Stacks((*WAITING, ODD))
    offsets = {"n1": Measured(0.1, 0.01), "n2": Measured(-300.0, 0.01)}
    found = Evidence(
        *(Path("/e/TIME"), Examination(look, look, verdict), (stacks, stacks), facts, offsets),
        ras=None,
        seconds=4.26,
    )
    assert evidence_lines(found) == [
        "verdict   rank 1 on n2: gone",
        "it is in  a < b < c",
        "rank 1    has the gil",
        "link      n1 -> 10.77.0.99: packets are lost on 1 connection",
        "link      n1 -> n2: packets are lost on 1 connection",
        "clock     n2 -300.00 s, at most 0.01 s wrong",
        "kernel    n2: NVRM: Xid 79",
        "n3        deadline",
        "evidence  /e/TIME, taken in 4.3 s",
    ]
