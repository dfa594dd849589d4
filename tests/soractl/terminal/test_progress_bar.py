import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from rich.live import Live

from soractl.runs.progress import Progress
from soractl.terminal import progress_bar
from soractl.terminal.meter import CLIPS, Reading

STARTING = Progress(elapsed_s=3, log_line="loading")
STEP_1 = Progress(elapsed_s=9, global_step=1, total_steps=5)
STEP_2 = Progress(elapsed_s=10, global_step=2, total_steps=5)


def test_without_a_terminal_progress_is_a_line_every_few_seconds(capsys):
    now = 100.0
    with progress_bar.display(quiet_s=0, clock=lambda: now) as display:
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
    monkeypatch.setattr(progress_bar.sys.stderr, "isatty", lambda: True)
    with progress_bar.display(quiet_s=0) as display:
        display.show(progress)
        display.say("n2 failed")
    assert "n2 failed" in capsys.readouterr().err


def test_a_short_work_shows_no_progress_in_a_log(capsys):
    now = 100.0
    with progress_bar.display(clock=lambda: now) as display:
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
    progress_bar.LiveDisplay(live).show(FAR)
    with console.capture() as captured:
        console.print(live.get_renderable())
    shown = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
    assert ("━" in shown) is has_bar
    assert re.sub("[━╸╺]+", "", shown).split() == FAR.one_line().split()
    assert max(map(len, shown.splitlines())) <= width
