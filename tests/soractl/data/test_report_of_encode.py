from pathlib import Path

import pytest

from soractl.data.encode import Encoded, EncodeOptions, EncodePlan, FeatureSize
from soractl.data.report import encoded_json, encoded_lines, features_json, features_lines
from soractl.errors import INTERRUPTED, Fault, FaultKind
from soractl.remote.nodes import Node
from soractl.remote.requests import Request

WORK = Request(("true",))
PLAN = EncodePlan(
    EncodeOptions("stage1", Path("features")),
    "nodes.txt",
    {Node("n1"): WORK, Node("n2"): WORK},
    WORK,
    ranks=16,
    estimates=(
        FeatureSize("text", "features/text-a", 1, 1000, 0, 4 * 10**9),
        FeatureSize("video", "features/video-b", 2, 2000, 500, 8 * 10**9),
    ),
    free_bytes=10**12,
)
VIDEO = {"kind": "video", "clips": 12, "failed": 7, "bytes": 5 * 10**6, "path": "features/v"}
VIDEO |= {
    "reasons": {"no video stream": 6, "moov atom not found": 1},
    "failed_clips": [{"path": f"{row}\n.mp4", "reason": "no video stream"} for row in range(7)],
}


def test_the_size_of_the_features_stands_beside_what_is_free():
    table, last = features_lines(PLAN)
    assert table.rows == [
        ("captions", 1000, 1, "4.0 GB", 0),
        ("clips", 2000, 2, "8.0 GB", 500),
    ]
    assert last == "about 10.0 GB to write by 16 ranks on 2 nodes; features has 1.0 TB free"
    values = features_json(PLAN)
    parts = values.pop("parts")
    assert values == {
        "out": "features",
        "nodes": "nodes.txt",
        "ranks": 16,
        "bytes_left": 10 * 10**9,
        "free_bytes": 10**12,
    }
    assert [part["kind"] for part in parts] == ["text", "video"]


def test_clips_that_failed_come_first_and_how_to_train_on_the_others_last():
    assert encoded_lines(Encoded(PLAN, 65.0, {}, (VIDEO,))) == [
        "6 no video stream",
        "1 moov atom not found",
        *(f"  {row}\\n.mp4: no video stream" for row in range(5)),
        "  and others in features/v/index.json",
        "12 clips encoded, 7 failed, 5.0 MB: features/v",
        "after 1 min 05 s; to train on them: --set data.features=features",
    ]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (INTERRUPTED, ["interrupted; the same command continues with what is left"]),
        (
            Fault(FaultKind.UNREACHABLE, "no route"),
            [
                "n1 was given up: unreachable: no route",
                "not everything is encoded; the same command continues with what is left",
            ],
        ),
    ],
)
def test_work_that_is_left_says_how_it_goes_on(fault, expected):
    encoded = Encoded(PLAN, 1.0, {"n1": fault})
    assert encoded_lines(encoded) == expected
    assert encoded_json(encoded) == {
        "out": "features",
        "seconds": 1.0,
        "parts": [],
        "faults": {"n1": str(fault)},
        "interrupted": fault == INTERRUPTED,
    }
