import json

import pytest

from soractl.errors import Interrupted, SoractlError
from soractl.runs.progress import Progress
from soractl.terminal import output

STARTING = Progress(elapsed_s=3, log_line="loading")
STEP_1 = Progress(elapsed_s=9, global_step=1, total_steps=5)
STEP_2 = Progress(elapsed_s=10, global_step=2, total_steps=5)


def test_an_error_says_what_happened_and_what_to_type(capsys):
    output.error(SoractlError("no run 9 in runs/", hint="did you mean 8?"))
    output.error(SoractlError("a = 1; expected str\nno setting b"))
    output.error(Interrupted("nothing was started"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "error: no run 9 in runs/\nhint: did you mean 8?\n"
        "error: a = 1; expected str\nno setting b\n"
        "interrupted; nothing was started\n"
    )


def test_json_is_one_object_with_its_schema_version_first(capsys):
    output.report(["text"], {"b": 1, "a": None}, as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"schema_version": 1, "b": 1, "a": None}
    assert printed.startswith('{\n  "schema_version": 1')


def test_without_a_terminal_progress_is_a_line_every_few_seconds(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(output.time, "monotonic", lambda: now)
    with output.progress_display() as display:
        for seconds, progress in [
            (0, STARTING),
            (1, STARTING),
            (2, STEP_1),  # the first step is always told
            (3, STEP_2),
            (7.5, STEP_2),
            (20, STEP_2),
        ]:
            now = 100.0 + seconds
            display.show(progress)
        display.say("n2 failed")
    assert capsys.readouterr().err.splitlines() == [
        "starting (3 s)  loading",
        "step 1/5",
        "step 2/5",
        "n2 failed",
    ]


@pytest.mark.parametrize("progress", [STARTING, STEP_1])
def test_on_a_terminal_progress_is_one_line_that_is_drawn_anew(capsys, monkeypatch, progress):
    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: True)
    with output.progress_display() as display:
        display.show(progress)
        display.say("n2 failed")
    assert "n2 failed" in capsys.readouterr().err
