from pathlib import Path

import pandas
import pytest

from soractl.data.check import Checked, CheckOptions
from soractl.data.report import MOST_CLIPS, check_json, check_lines, printable
from soractl.errors import INTERRUPTED, Fault, FaultKind
from soractl.remote.nodes import NodeSource

LOST = Fault(FaultKind.UNREACHABLE, "no route")


def checked(*reasons, left=0, lost=None):
    table = pandas.DataFrame({"path": [f"{row}.mp4" for row in range(9)]})
    failed = tuple({"path": f"{row}.mp4", "reason": why} for row, why in enumerate(reasons))
    options = CheckOptions(Path("clips.csv"), out=Path("ok.csv"))
    source = NodeSource((), "nodes.txt")
    return Checked(options, source, table, table[len(failed) :], failed, left, lost or {})


def test_reasons_that_differ_in_numbers_alone_are_counted_together_the_most_common_first():
    found = checked("no video stream", "40 frames, not 41", "7 frames, not 8")
    assert check_lines(found, Path("ok.png"))[:2] == ["2 N frames, not N", "1 no video stream"]


def test_of_many_failed_clips_the_first_are_named_and_the_others_counted():
    lines = check_lines(checked(*["broken"] * 7), None)
    assert lines[1 : MOST_CLIPS + 2] == [
        *(f"  {row}.mp4: broken" for row in range(MOST_CLIPS)),
        "  and 2 more in clips.check.jsonl",
    ]


def test_nodes_that_were_given_up_are_named_unless_ctrl_c_ended_them():
    found = checked(left=3, lost={"n1": LOST, "n2": INTERRUPTED})
    assert check_lines(found, None) == [
        "n1 was given up: unreachable: no route",
        f"{found.healthy_clips} healthy, 0 failed, 3 not checked; continue with --resume",
    ]
    assert check_json(found, None) == {
        "out": None,
        "job_log": "clips.check.jsonl",
        "picture": None,
        "nodes": "nodes.txt",
        "healthy": found.healthy_clips,
        "failed": [],
        "not_checked": 3,
        "lost_nodes": {"n1": "unreachable: no route", "n2": "interrupted"},
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a b.mp4", "a b.mp4"), ("c\nd.mp4", "c\\nd.mp4"), ("\x1b[31m", "\\x1b[31m"), ("ü", "ü")],
)
def test_a_name_that_would_break_its_line_is_escaped(name, shown):
    assert printable(name) == shown
