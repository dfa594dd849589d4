"""The page in a browser: Debian's Chromium, driven by Playwright."""

import random
import time

import pytest

from soractl.monitor import server
from soractl.monitor.live import Live, NodeNow, Snapshot
from soractl.monitor.service import MonitorOptions, PageAnswers, export
from soractl.monitor.store import Store
from soractl.remote.nodes import Node, NodeSource
from tests.browsing import IN_A_BROWSER
from tests.soractl.monitor import fleet
from tests.soractl.monitor.seen import clock
from tests.waiting import wait_for

pytestmark = IN_A_BROWSER
END = int(time.time()) // 60 * 60
HOURS = 6
# A canvas has colours where nodes answered, and is transparent where they did not.
PIXELS = """([name, x, y]) => {
  const canvas = [...document.querySelectorAll('canvas.map')].find(
    (one) => (one.getAttribute('aria-label') ?? '').startsWith(name));
  const at = (share, size) => Math.min(size - 1, Math.floor(share * size));
  return [...canvas.getContext('2d').getImageData(
    at(x, canvas.width), at(y, canvas.height), 1, 1).data];
}"""


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Six hours of 24 nodes, and their run."""
    folder = tmp_path_factory.mktemp("monitor")
    fleet.fill(folder / "store", END, seconds=HOURS * 3600)
    run = fleet.write_run(folder / "runs", END, seconds=HOURS * 3600)
    source = NodeSource(tuple(Node(name) for name in fleet.names()), "made up")
    return MonitorOptions(source=source, run=run, folder=folder / "store", port=0)


@pytest.fixture(scope="module")
def exported(options, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.html"
    export(options, file)
    return file


def is_fault(line):
    """All but advice about these tests' own reading of pixels."""
    return "willReadFrequently" not in line.text


@pytest.fixture
def visit(browser):
    """A function that opens an address and returns the page and its faults; all are closed."""
    contexts = []

    def visit(address, *, width=1280, height=900, **how):
        context = browser.new_context(viewport={"width": width, "height": height}, **how)
        context.set_default_timeout(40_000)
        contexts.append(context)
        page = context.new_page()
        page.faults, page.asked = [], []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("console", lambda line: page.faults.append(line.text) if is_fault(line) else None)
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def served(options):
    """The live page of the same nodes, and a function that sends it a look at them."""
    live, feed = Live(fleet.names()), server.Feed()
    answers = PageAnswers(options, live).by_path()
    application = server.page_application(answers, feed, "127.0.0.1", None)
    serving = server.Server(application, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{serving.start()}/"
    yield url, feed
    serving.stop()


def look(unix_s, power=650.0, silent=()):
    nodes = []
    for place, name in enumerate(fleet.names()):
        chip = {(name, g): 0.0 for g in range(8)}
        values = fleet.node_values(
            random.Random(place), name, place, 120, 86400, 0.1, chip, 8, 8, 2
        )
        for gpu in values.gpus.values():
            gpu["power_w"] = power
        known = None if name in silent else values
        nodes.append(NodeNow(name, known, None, clock(name), unix_s if known else None))
    return Snapshot(unix_s, tuple(nodes))


def plots(page):
    return page.locator("figure.panel:not([hidden]) h2").all_text_contents()


def hover(page, title, x, y):
    """The pointer over a panel, by shares of its width and height; the tooltip's lines."""
    figure = page.locator("figure.panel", has=page.get_by_role("heading", name=title, exact=True))
    box = figure.locator("canvas.map").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    return page.locator("#tip").inner_text().split("\n")


def test_every_panel_is_drawn_from_the_disk_and_nothing_is_asked(visit, exported):
    page = visit(exported.as_uri())
    assert plots(page) == [
        *("InfiniBand", "Network", "Power", "Utilisation", "Temperature", "Clock offset"),
        *("Loss", "Step time", "Power of all GPUs", "Slowest ranks"),
    ]
    for name in ("Network", "Power", "Utilisation", "Temperature"):
        assert page.evaluate(PIXELS, [name, 0.02, 0.5])[3] == 255
    assert page.locator(".empty:visible").count() == 0
    assert page.faults == []
    assert page.asked == [exported.as_uri(), "data:,"] or page.asked == [exported.as_uri()]


def test_a_gap_is_no_colour_and_a_short_one_is_seen_too(visit, exported):
    page = visit(exported.as_uri())
    absent = (fleet.names().index(fleet.ABSENT[0]) + 0.8) / 24
    middle = 0.3 + fleet.ABSENT[1] * 30 / (HOURS * 3600)
    assert page.evaluate(PIXELS, ["Power", middle, absent])[3] == 0
    assert page.evaluate(PIXELS, ["Power", 0.2, absent])[3] == 255
    short = (fleet.names().index(fleet.SHORT_GAP[0]) + 0.2) / 24
    middle = 0.75 + fleet.SHORT_GAP[1] * 30 / (HOURS * 3600)
    assert page.evaluate(PIXELS, ["Power", middle, short])[3] == 0


def test_the_pointer_names_the_odd_gpu_with_its_value_and_the_median(visit, exported):
    page = visit(exported.as_uri())
    row = (fleet.names().index(fleet.SLOW[0]) + 0.5) / 24
    lines = hover(page, "Power", 0.64, row)
    assert lines[1] == f"{fleet.SLOW[0]} GPU {fleet.SLOW[1]}"
    assert 360 < int(lines[2].split()[0]) < 400
    assert lines[3].startswith("median of all 6")
    assert hover(page, "Power", 0.31, (fleet.names().index(fleet.ABSENT[0]) + 0.8) / 24)[2:] == [
        "no answer: nothing is known"
    ]
    crossed = page.locator(".cross").evaluate_all("all => all.map(one => one.style.opacity)")
    assert set(crossed) == {"1"}


def test_the_handler_of_the_pointer_is_fast(visit, exported):
    page = visit(exported.as_uri())
    for step in range(40):
        hover(page, "Power", 0.1 + step / 50, 0.1 + step / 60)
    took = sorted(page.evaluate("took.hover"))
    assert len(took) >= 40
    assert took[len(took) // 2] < 10  # 2 on a quiet machine: benchmarks/monitor.py


def test_a_node_opens_into_its_gpus_and_the_scale_into_the_difference(visit, exported):
    page = visit(exported.as_uri())
    power = page.locator("figure.panel", has=page.get_by_role("heading", name="Power", exact=True))
    button = power.get_by_role("button", name=fleet.SLOW[0])
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert power.locator(".label.gpu").all_text_contents() == [f"GPU {i}" for i in range(8)]
    assert power.get_by_role("button", name=fleet.SLOW[0]).get_attribute("aria-expanded") == "true"
    assert power.locator("canvas.marks").evaluate(
        "one => one.getContext('2d').getImageData(0, 0, one.width, one.height).data.some(Boolean)"
    )
    before = page.evaluate(PIXELS, ["Power", 0.1, 0.05])
    power.get_by_role("button", name="Power against the median").click()
    assert power.locator(".toggle").get_attribute("aria-pressed") == "true"
    assert page.evaluate(PIXELS, ["Power", 0.1, 0.05]) != before
    assert page.faults == []


def test_a_drag_zooms_and_a_double_click_shows_all(visit, exported):
    page = visit(exported.as_uri())
    box = page.locator("canvas.map").nth(3).bounding_box()
    whole = page.locator(".axis").nth(3).inner_text()
    page.mouse.move(box["x"] + 100, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 30, steps=4)
    page.mouse.up()
    zoomed = page.evaluate("state.view.to - state.view.from")
    assert zoomed < HOURS * 60 / 2
    assert page.locator(".axis").nth(3).inner_text() != whole
    page.mouse.dblclick(box["x"] + 100, box["y"] + 30)
    assert page.locator(".axis").nth(3).inner_text() == whole


def test_the_keyboard_moves_the_crosshair_and_zooms(visit, exported):
    page = visit(exported.as_uri())
    plot = page.locator(".plot").nth(2)
    plot.focus()
    page.keyboard.press("End")
    first = page.locator("#tip").inner_text()
    for key in ("ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    assert page.locator("#tip").inner_text() != first
    assert "node-001" in page.locator("#tip").inner_text()
    page.keyboard.press("+")
    assert page.evaluate("state.view.to - state.view.from") < HOURS * 60
    page.keyboard.press("Escape")
    assert page.evaluate("state.view.to - state.view.from") == page.evaluate("state.loaded.columns")


def test_marks_of_the_run_are_named_by_the_pointer(visit, exported):
    page = visit(exported.as_uri())
    at = fleet.PAUSES[1][0]
    lines = hover(page, "Power", at + 0.001, 0.1)
    assert "● lost node-019: silent, no step for 90 s" in lines


def test_one_late_clock_does_not_flatten_the_others(visit, exported):
    page = visit(exported.as_uri())
    clocks = page.locator(
        "figure.panel", has=page.get_by_role("heading", name="Clock offset", exact=True)
    )
    assert fleet.LATE_CLOCK in clocks.locator(".key").inner_text()
    spread = page.evaluate(
        """() => { const plot = panels[5].content.plot;
        return [plot.valToPos(0, 'y'), plot.valToPos(0.3, 'y'), plot.valToPos(-350, 'y')]; }"""
    )
    zero, third, late = spread
    assert zero - third > 2  # 0.3 ms is seen
    assert late - zero > 20


def test_a_live_look_adds_to_the_newest_column_without_asking_anew(visit, served):
    url, feed = served
    page = visit(url)
    columns = page.evaluate("state.loaded.columns")
    wait_for(lambda: feed._queues)
    asked = len(page.asked)
    now = int(time.time())
    feed.publish({"now": look(now).as_json()})
    page.wait_for_selector("#nodes tbody tr")
    feed.publish({"now": look(now + 60, power=150.0, silent=("node-002",)).as_json()})
    page.locator("#facts dd", has_text="kW").wait_for()
    wait_for(lambda: page.evaluate("state.now.unix_s") == now + 60)
    assert page.evaluate("state.loaded.columns") == columns
    shown = page.evaluate("state.loaded.timeAt(state.loaded.columns)")
    assert now + 60 < shown <= now + 180
    assert page.faults == []
    more = [url for url in page.asked[asked:] if "/window" not in url]
    assert more == []


def test_steps_and_marks_of_the_run_are_fetched_each_minute(visit, served):
    url, feed = served
    page = visit(f"{url}#%")  # a fragment that cannot be decoded
    wait_for(lambda: feed._queues)
    page.evaluate("state.loadedAt -= 61000")
    with page.expect_response(lambda answer: "/window" in answer.url) as answer:
        feed.publish({"now": look(int(time.time())).as_json()})
    assert answer.value.ok
    assert page.faults == []


def test_a_range_and_a_zoom_are_fetched(visit, served):
    url, _ = served
    page = visit(url)
    with page.expect_response(lambda answer: "/window" in answer.url) as answer:
        page.get_by_role("button", name="7 d").click()
    assert answer.value.ok
    page.locator("[data-seconds='604800'][aria-pressed='true']").wait_for()
    assert page.evaluate("state.loaded.step") == 420
    assert page.faults == []


def test_a_node_has_all_its_numbers(visit, served):
    url, feed = served
    page = visit(url)
    wait_for(lambda: feed._queues)
    feed.publish({"now": look(int(time.time())).as_json()})
    page.wait_for_selector("#nodes tbody tr")
    page.get_by_role("button", name="node-017").last.click()
    section = page.locator("#node")
    section.get_by_role("table", name="GPUs").wait_for()
    gpus = section.get_by_role("table", name="GPUs")
    assert gpus.get_by_role("row").count() == 9
    text = gpus.get_by_role("row").nth(3).inner_text().split("\t")
    assert text[:3] == ["GPU 2", "NVIDIA H100 80GB HBM3", "650 W of 700 W"]
    assert section.get_by_role("table", name="InfiniBand ports").get_by_role("row").count() == 9
    assert section.get_by_role("table", name="Counters").get_by_role("row").count() == 9
    section.get_by_role("button", name="all nodes").click()
    assert section.is_hidden()
    assert page.faults == []


def test_the_table_for_screen_readers_has_a_caption_and_every_node(visit, served):
    url, feed = served
    page = visit(url)
    wait_for(lambda: feed._queues)
    feed.publish({"now": look(int(time.time()), silent=("node-004",)).as_json()})
    table = page.get_by_role("table", name="Every node at the last look")
    table.wait_for()
    assert table.get_by_role("row").count() == 25
    heads = table.locator("thead th[scope=col]")
    assert heads.count() == 15
    assert table.locator("tbody th[scope=row]").count() == 24
    assert table.get_by_role("row").nth(4).inner_text().split("\t")[:2] == [
        "node-004",
        "no look yet",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_within_its_width_in_both_schemes(visit, exported, scheme):
    page = visit(
        exported.as_uri(),
        width=390,
        height=844,
        device_scale_factor=2,
        is_mobile=True,
        has_touch=True,
        color_scheme=scheme,
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(246, 247, 249)",
            "dark": "rgb(20, 23, 27)",
        }[scheme]
    )
    assert page.evaluate(PIXELS, ["Power", 0.02, 0.5])[3] == 255
    assert page.faults == []


def test_hostile_names_are_text(visit, tmp_path):
    name = "n<img src=x onerror=alert(1)>"
    kept = Store(tmp_path / "store")
    chip = {(name, g): 0.0 for g in range(1)}
    values = fleet.node_values(random.Random(1), name, 0, 120, 86400, 0.1, chip, 1, 1, 1)
    kept.add(END - 60, {name: values})
    kept.close_minutes(END)
    kept.close()
    source = NodeSource((Node(name),), "made up")
    export(MonitorOptions(source=source, folder=tmp_path / "store"), tmp_path / "page.html")
    page = visit((tmp_path / "page.html").as_uri())
    assert page.locator("img").count() == 0
    assert page.locator(".labels button").first.inner_text().endswith(name)
    assert page.faults == []
