"""First paint of a gallery of 200 checkpoints by 32 prompts in Chromium, and a row in step.

    python benchmarks/gallery.py [--checkpoints 200] [--prompts 32] [--repeats 3]

The videos are eight, linked under 6,400 names; the time of writing the page is shown as well.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, sync_playwright

from soractl.gallery.contents import write_gallery
from tests.soractl.gallery.evaluated import moving, publish, video
from trainer.run_dir import RunDir, create_run
from trainer.sampling.films import poster_of, write_poster, write_video

CONTENTS = 8
SIZE: ViewportSize = {"width": 1280, "height": 720}
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
MOMENTS = "[...document.querySelectorAll('#sheet video')].map(v => v.paused ? -1 : v.currentTime)"


def evaluated(root: Path, checkpoints: int, prompts: int) -> RunDir:
    run = create_run(root, "bench")
    films = []
    for number in range(CONTENTS):
        film = moving(40 + 15 * number, frames=102, height=90, width=160)
        films.append(root / f"{number}.mp4")
        write_video(film, films[-1], 24)
        write_poster(film, poster_of(films[-1]))
    for step in range(1, checkpoints + 1):
        folder = run.evaluation("low4s", step)
        folder.mkdir(parents=True)
        videos = [video(number, prompt=f"prompt {number}") for number in range(prompts)]
        for number, one in enumerate(videos):
            film = films[number % CONTENTS]
            os.link(film, folder / one["name"])
            os.link(poster_of(film), folder / one["poster"])
        publish(run, step, videos)
    return run


def first_paint_s(browser: Browser, address: str) -> tuple[float, float]:
    """Seconds to the first paint, and to the first cells."""
    with browser.new_context(viewport=SIZE, bypass_csp=True) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".cell")
        cells_s = page.evaluate("performance.now()") / 1000
        page.wait_for_function(f"{PAINTED} > 0")
        return page.evaluate(PAINTED) / 1000, cells_s


def apart_ms(browser: Browser, address: str) -> list[float]:
    """Distances between the first and the last video of a row while it plays."""
    with browser.new_context(viewport=SIZE, bypass_csp=True) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".cell")
        page.click("[data-play='0']")
        page.wait_for_function(
            f"{MOMENTS}.length > 3 && {MOMENTS}.every(at => at > 0.2)", timeout=120_000
        )
        seen = [page.evaluate(MOMENTS) for _ in range(30)]
        return [1000 * (max(one) - min(one)) for one in seen if min(one) > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = evaluated(Path(folder), options.checkpoints, options.prompts)
        began = time.perf_counter()
        page = write_gallery([run])
        written_s = time.perf_counter() - began
        # root, as in containers, has no sandbox
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        paints = [first_paint_s(browser, page.as_uri()) for _ in range(options.repeats)]
        apart = apart_ms(browser, page.as_uri())
        browser.close()
        kilobytes = run.gallery_data.stat().st_size / 1000
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}")
    print(f"{options.checkpoints} checkpoints x {options.prompts} prompts")
    print(f"page written in {written_s:.2f} s, {kilobytes:.0f} kB of data")
    for painted_s, cells_s in paints:
        print(f"first paint {painted_s:.2f} s, cells {cells_s:.2f} s")
    print(
        f"a row in step: median {statistics.median(apart):.1f} ms apart, most {max(apart):.1f} ms,"
        f" n = {len(apart)}"
    )


if __name__ == "__main__":
    main()
