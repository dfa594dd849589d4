"""The page in a browser: Debian's Chromium, driven by Playwright."""

import csv
import shutil
import threading
from pathlib import Path

import pytest

from soractl.gallery.contents import write_gallery
from soractl.gallery.serve import gallery_server, url_of
from tests.browsing import IN_A_BROWSER
from tests.soractl.gallery.evaluated import publish, video
from trainer.run_dir import RunDir, create_run

pytestmark = IN_A_BROWSER


@pytest.fixture
def visit(browser):
    """A function that opens an address and returns the page and its faults; all are closed."""
    contexts = []

    def visit(address, *, width=1280, height=720, ready=".cell", **how):
        size = {"width": width, "height": height}
        # Playwright waits by `eval`, which the page's policy forbids
        context = browser.new_context(viewport=size, **{"bypass_csp": True, **how})
        context.set_default_timeout(40_000)
        contexts.append(context)
        page = context.new_page()
        page.faults, page.asked = [], []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda line: page.faults.append(f"{line.text} {line.location}"))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.wait_for_selector(ready)
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def address(filmed):
    return write_gallery([filmed]).as_uri()


def times(page):
    """Moments of the videos that play, taken in one go."""
    return page.evaluate(
        "[...document.querySelectorAll('#sheet video')].map(v => v.paused ? -1 : v.currentTime)"
    )


def wait_until_playing(page, videos):
    page.wait_for_function(
        "n => { const all = [...document.querySelectorAll('#sheet video')];"
        "return all.length === n && all.every(v => !v.paused && v.currentTime > 0.1); }",
        arg=videos,
    )


def test_everything_is_drawn_from_the_disk_and_nothing_else_is_asked(visit, address):
    page = visit(address, bypass_csp=False)
    for view in ("slider", "blind", "curves", "grid"):
        page.click(f"#tab-{view}")
        assert page.is_visible(f"#{view}")
        if view == "slider":
            page.wait_for_selector("#slider-show video")
        if view == "curves":
            titles = page.locator("figcaption").all_text_contents()
            assert titles[0].startswith("motion")
            assert titles[-1] == "loss"
    assert page.faults == []
    assert [asked for asked in page.asked if not asked.startswith(("file:", "blob:"))] == []


def test_weights_attempts_and_alarms_stand_on_the_page(visit, address, filmed):
    page = visit(address)
    head = page.locator(".column").nth(1)
    words = "step 200 EMA epoch 0 attempt 2 ⚠ frozen: 1 of 3"
    assert head.inner_text().split() == words.split()
    assert page.locator("#alarms").inner_text() == "⚠ step 200: frozen: 1 of 3"
    assert page.locator(".cell.alarm").count() == 1
    links = [link.get_attribute("href") for link in head.locator("a").all()]
    assert links == ["./../checkpoints/epoch0-global_step200/", "./../attempts/2/"]


def test_a_prompt_is_text_and_never_part_of_the_page(visit, address):
    page = visit(address)
    assert page.locator(".first .text").nth(1).inner_text() == "a <b>dog</b> & a hen"
    assert page.locator("#sheet b").all_text_contents()[0] == "step 100"


def test_a_row_plays_in_step_and_stops(visit, address):
    page = visit(address)
    page.click("[data-play='0']")
    shown = page.locator("[data-row='0']").count()
    wait_until_playing(page, shown)
    page.wait_for_timeout(1000)  # what began a frame late has caught up
    apart = []
    for _ in range(20):
        moments = times(page)
        if min(moments) > 0:
            apart.append(max(moments) - min(moments))
    assert len(apart) > 5
    assert sorted(apart)[len(apart) // 2] < 0.02  # by eye nothing; the page aims at half of it
    page.click("[data-play='0']")
    assert page.locator("#sheet video").count() == 0


def test_only_visible_cells_are_in_the_page(visit, run):
    for step in range(1, 101):
        publish(run, step, [video(number, prompt=f"prompt {number}") for number in range(20)])
    page = visit(write_gallery([run]).as_uri())
    assert page.locator(".cell").count() < 80
    assert page.get_attribute("#sheet", "aria-colcount") == "101"
    assert page.locator("video").count() == 0
    page.evaluate("document.getElementById('grid').scrollTo(1e6, 1e6)")
    page.wait_for_selector("[data-row='19'][data-column='99']")
    assert page.locator(".cell").count() < 80
    assert page.locator("[data-row='0']").count() == 0


def test_the_keyboard_moves_and_plays(visit, address):
    page = visit(address)
    page.locator("[data-row='0'][data-column='0']").focus()
    for key in ("ArrowDown", "End"):
        page.keyboard.press(key)
    focused = "[document.activeElement.dataset.row, document.activeElement.dataset.column]"
    assert page.evaluate(focused) == ["1", "7"]
    page.keyboard.press("Enter")
    wait_until_playing(page, 1)
    page.keyboard.press("Escape")
    assert page.locator("#sheet video").count() == 0
    page.keyboard.press(" ")
    page.wait_for_function("document.querySelectorAll('#sheet video').length > 3")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label == "a <b>dog</b> & a hen, step 800, EMA"
    page.locator("#tab-grid").focus()
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#slider")


def test_the_slider_keeps_the_moment_and_says_the_checkpoint(visit, address):
    page = visit(address)
    page.click("#tab-slider")
    page.wait_for_function("document.querySelector('#slider-show video')?.currentTime > 0")
    assert page.locator("#slider-says").inner_text().startswith("step 800, epoch 0, EMA")
    page.select_option("#slider-prompt", "1")
    page.locator("#slider-at").fill("1")
    page.wait_for_function(
        "document.querySelector('#slider-show video')?.src.endsWith('/200/sample_0001.mp4')"
    )
    assert "frozen" in page.locator("#slider-says").inner_text()


def test_votes_are_blind_kept_and_saved(visit, address, tmp_path):
    page = visit(address)
    page.click("#tab-blind")
    for pressed, judged in (("1", 1), ("2", 2), ("3", 3)):
        page.keyboard.press(pressed)
        assert page.locator("#blind-count").inner_text() == f"{judged} of 3 prompts judged"
    page.reload()
    page.wait_for_selector(".cell")
    page.click("#tab-blind")
    assert page.locator("#blind-prompt").inner_text() == "Every prompt is judged."
    with page.expect_download() as download:
        page.click("#blind-csv")
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert sorted(row["prompt"] for row in rows) == [f"sample_000{n}" for n in range(3)]
    assert [row["vote"] for row in rows] == ["left", "equal", "right"]
    names = {f"001-smoke step {step} EMA" for step in (700, 800)}
    assert all({row["left"], row["right"]} == names for row in rows)
    page.click("#blind-result")
    assert "equal: 1" in page.locator("#blind-count").inner_text()


def test_two_runs_are_compared_and_votes_are_their_own(visit, filmed, tmp_path):
    other = create_run(tmp_path / "runs", "smoke")
    shutil.copytree(filmed.evaluations, other.evaluations)
    page = visit(write_gallery([filmed, other]).as_uri())
    page.click("#tab-blind")
    page.select_option("#blind-a", label="001-smoke step 800 EMA")
    page.wait_for_selector("#blind-left video")
    page.keyboard.press("1")
    keys = page.evaluate("Object.keys(localStorage)")
    assert [key.endswith("001-smoke 002-smoke") for key in keys] == [True]
    assert page.locator("#run option").all_text_contents() == ["001-smoke", "002-smoke"]


def test_a_phone_has_no_sideways_scroll_of_the_page_and_dark_is_dark(visit, address):
    page = visit(address, width=390, height=780, color_scheme="dark")
    for view in ("slider", "blind", "curves", "grid"):
        page.click(f"#tab-{view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("[data-row='0']").count() >= 2
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(20, 23, 27)"


def test_a_served_page_updates_itself_and_its_videos_seek(visit, filmed):
    with gallery_server(lambda: [filmed], 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            page = visit(url_of(server))
            page.click("[data-play='0']")
            wait_until_playing(page, page.locator("[data-row='0']").count())
            page.click("[data-play='0']")
            shutil.copytree(filmed.evaluation("low4s", 800), filmed.evaluation("low4s", 900))
            publish(filmed, 900, [video(0)])
            page.evaluate("read()")
            page.wait_for_function(
                "document.getElementById('status').textContent.startsWith('9 checkpoints')"
            )
            assert page.faults == []
            assert all(asked.startswith(url_of(server)) for asked in page.asked)
        finally:
            server.shutdown()
            thread.join()


def test_a_served_page_waits_for_the_first_run(visit, filmed):
    runs = []
    with gallery_server(lambda: runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            page = visit(url_of(server), ready="text=Nothing was copied yet.")
            runs.append(filmed)
            page.evaluate("read()")
            page.wait_for_selector(".cell")
            assert page.faults == []
        finally:
            server.shutdown()
            thread.join()


def test_an_empty_run_and_a_page_without_data_say_so(visit, tmp_path):
    run = create_run(tmp_path, "smoke")
    index = write_gallery([run])
    page = visit(index.as_uri(), ready=".first")
    assert page.locator(".first").inner_text() == "Nothing was sampled yet."
    RunDir(run.path).gallery_data.unlink()
    page = visit(index.as_uri(), ready="#status:not(:empty)")
    assert "gallery.js is missing" in page.locator("#status").inner_text()
