"""The report's page in a browser: Debian's Chromium, driven by Playwright."""

from dataclasses import replace

import pytest

from soractl.account.goodput import Interruption, Part, Segment
from soractl.account.page import page
from soractl.account.report import figures
from tests.browsing import IN_A_BROWSER
from tests.soractl.account.test_page import ACCOUNT, T0

pytestmark = IN_A_BROWSER
HOUR_S = 3600.0
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}


def night():
    """A night of twelve hours with three interruptions."""
    stops = [
        (1, 2.0, "hung", "unknown", "the others waited for one rank"),
        (2, 5.0, "lost", "hardware", "a node was lost"),
        (3, 9.0, "crashed", "hardware", "a GPU fell off the bus (Xid 79)"),
    ]
    segments, begin_s = [], 0.0
    for number, hours, *_ in [*stops, (4, 12.0)]:
        end_s = hours * HOUR_S
        cuts = (Part.STARTING, 120.0), (Part.FIRST_STEP, 20.0), (Part.TRAINING, None)
        for part, seconds in (*cuts, (Part.LOST, 300.0), (Part.DETECTING, 35.0)):
            until_s = begin_s + seconds if seconds else end_s - 335.0
            segments.append(Segment(part, T0 + begin_s, T0 + until_s, number))
            begin_s = until_s
    interruptions = tuple(
        Interruption(
            attempt=number, unix_s=T0 + hours * HOUR_S, state=state, cause=kind, name=name,
            text="rank 3: " + "a long line of words that an operator would rather not read " * 2,
            node="n2", step=round(hours * 900), lost_steps=75, lost_s=300.0, detected_s=35.0,
            repaired_s=175.0,
        )
        for number, hours, state, kind, name in stops
    )  # fmt: skip
    rows = tuple(
        {"global_step": i, "attempt": 1 + sum(i > s[1] * 90 for s in stops), "loss": 1 / i**0.3,
         "s_per_step": 3.6 + 0.05 * (i % 9) + (9.0 if i % 97 == 0 else 0.0),
         "time_unix_s": T0 + i * 40.0}
        for i in range(1, 1080)
    )  # fmt: skip
    return replace(
        ACCOUNT,
        end_unix_s=T0 + 12 * HOUR_S,
        segments=tuple(segments),
        interruptions=interruptions,
        gpus=dict.fromkeys((1, 2, 3, 4), 24),
        rows=rows,
        price_per_gpu_hour=2.5,
    )


@pytest.fixture
def shown(browser, tmp_path):
    """A function that opens the page of a night, and a picture of it beside the page."""
    file = tmp_path / "report.html"
    account = night()
    file.write_text(page(account, figures(account)))
    contexts = []

    def show(scheme, viewport):
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        found = context.new_page()
        found.asked, found.faults = [], []
        found.on("request", lambda request: found.asked.append(request.url))
        found.on("pageerror", lambda error: found.faults.append(str(error)))
        found.on("console", lambda line: found.faults.append(line.text))
        found.goto(file.as_uri())
        found.screenshot(path=tmp_path / f"{scheme}-{viewport['width']}.png", full_page=True)
        return found

    yield show
    for context in contexts:
        context.close()


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_asks_for_nothing_but_itself_and_is_no_wider_than_the_window(
    shown, scheme, viewport
):
    found = shown(scheme, viewport)
    assert len(found.asked) == 1
    assert found.faults == []
    widths = found.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]
    assert found.locator("svg").count() == 3
    assert found.locator("svg").evaluate_all("all => all.map(one => one.clientHeight > 20)") == (
        [True] * 3
    )


def test_ink_and_paper_follow_the_readers_setting(shown):
    colours = [
        shown(scheme, DESK).evaluate(
            "(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))"
        )
        for scheme in ("light", "dark")
    ]
    assert colours == [
        ["rgb(26, 26, 26)", "rgb(255, 255, 255)"],
        ["rgb(232, 232, 232)", "rgb(22, 22, 22)"],
    ]
