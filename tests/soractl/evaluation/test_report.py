from soractl.evaluation.report import sampled_json, sampled_lines
from soractl.evaluation.sample import Sampled
from soractl.evaluation.samplers import Made

TASKS = tuple(
    {"file": f"out/{name}.mp4", "text": f"a {name}", "seed": 42, "sample": 0}
    for name in ("cat", "dog", "hen")
)
RESULT = Sampled(
    (Made(TASKS[1], 12.0, 3.0), Made(TASKS[2], reason="51 frames of 720x1280 do not fit")),
    TASKS,
    70.0,
    ("out/contact_sheet.png",),
)


def test_every_video_has_a_line_and_the_last_one_counts():
    assert sampled_lines(RESULT) == [
        "out/cat.mp4  there before",
        "out/dog.mp4  12 s",
        "out/hen.mp4  failed: 51 frames of 720x1280 do not fit",
        "contact sheet: out/contact_sheet.png",
        "1 video made, 1 failed, 1 there before, in 1 min 10 s",
    ]
    assert RESULT.exit_code == 3


def test_json_has_the_same():
    values = sampled_json(RESULT)
    assert values["contact_sheets"] == ["out/contact_sheet.png"]
    assert values["videos"][1] == {
        "file": "out/dog.mp4",
        "manifest": "out/dog.json",
        "prompt": "a dog",
        "seed": 42,
        "sample": 0,
        "elapsed_s": 12.0,
        "error": None,
    }
    assert values["videos"][2]["error"] == "51 frames of 720x1280 do not fit"
