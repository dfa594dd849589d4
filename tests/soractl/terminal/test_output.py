import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console
from rich.live import Live

from soractl.errors import Interrupted, SoractlError
from soractl.runs.progress import Progress
from soractl.terminal import output
from soractl.terminal.meter import CLIPS, Reading
from soractl.terminal.table import BadLine, Table

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


def test_a_report_of_tables_and_lines_is_plain_text_without_a_terminal(capsys):
    parts = [Table(("A", "B"), (("1", "2"),), words=1), BadLine("x is broken"), "1 of 2"]
    output.report(parts, {}, as_json=False)
    assert capsys.readouterr().out == "A  B\n1  2\nx is broken\n1 of 2\n"


def test_without_a_terminal_progress_is_a_line_every_few_seconds(capsys):
    now = 100.0
    with output.display(quiet_s=0, clock=lambda: now) as display:
        for seconds, progress in [
            (0, STARTING),
            (1, replace(STARTING, elapsed_s=4)),
            (6, replace(STARTING, elapsed_s=9)),  # time alone is no news
            (7, STEP_1),  # the first step is always shown
            (8, STEP_2),
            (12.5, STEP_2),
            (20, replace(STEP_2, heartbeat_age_s=9)),
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
    with output.display(quiet_s=0) as display:
        display.show(progress)
        display.say("n2 failed")
    assert "n2 failed" in capsys.readouterr().err


def test_a_short_work_shows_no_progress_in_a_log(capsys):
    now = 100.0
    with output.display(clock=lambda: now) as display:
        for seconds, done in [(0, 0), (3, 50), (5.5, 80), (6, 90)]:
            now = 100.0 + seconds
            display.show(Reading(CLIPS, done, 100))
    assert capsys.readouterr().err == "80 of 100 clips\n"


FAR = Progress(
    elapsed_s=9, global_step=120, total_steps=4000, loss=0.1234, s_per_step=3.21, clips_per_s=12.4
)


@pytest.mark.parametrize(("width", "has_bar"), [(60, False), (80, True), (160, True)])
def test_on_a_narrow_terminal_the_bar_gives_way_and_no_number(width, has_bar):
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    live = Live(console=console, auto_refresh=False)
    output.LiveDisplay(live).show(FAR)
    with console.capture() as captured:
        console.print(live.get_renderable())
    shown = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
    assert ("━" in shown) is has_bar
    assert re.sub("[━╸╺]+", "", shown).split() == FAR.one_line().split()
    assert max(map(len, shown.splitlines())) <= width
