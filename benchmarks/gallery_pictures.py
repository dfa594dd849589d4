"""Pictures of the gallery, for the README and for eyes: drawn films that get better with the steps.

    python benchmarks/gallery_pictures.py FOLDER

The README's is `docs/pictures/gallery.png`.
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from torch import Tensor
from torch.nn import functional

from soractl.evaluation.alarms import find_alarms
from soractl.gallery.contents import write_gallery
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run
from trainer.sampling.films import poster_of, write_poster, write_video
from trainer.sampling.judge import measures_of

HEIGHT, WIDTH, FRAMES, FPS = 144, 256, 24, 24
STEPS = range(500, 4001, 500)
COLLAPSED = 1000  # a checkpoint whose videos of one prompt stand still
COLOURS = 256  # of a picture's palette: enough for the eye, a third of the bytes

Y, X = torch.meshgrid(
    torch.linspace(0, 1, HEIGHT), torch.linspace(0, WIDTH / HEIGHT, WIDTH), indexing="ij"
)


def _colour(*levels: float) -> Tensor:
    return torch.tensor(levels).view(3, 1, 1) / 255


def _over(below: Tensor, above: Tensor, share: Tensor) -> Tensor:
    return below * (1 - share) + above * share


def _disc(x: float, y: float, radius: float, soft: float = 0.01) -> Tensor:
    return torch.sigmoid((radius - torch.hypot(X - x, Y - y)) / soft)


def lighthouse(t: float) -> Tensor:
    """A tower before the setting sun, and waves."""
    sky = _over(_colour(60, 50, 110), _colour(255, 150, 70), (Y / 0.62).clamp(0, 1))
    image = _over(sky, _colour(255, 230, 160), _disc(1.15, 0.5, 0.09, 0.02))
    waves = 0.5 + 0.5 * torch.sin(60 * Y + 9 * torch.sin(3 * X + 5 * t) + 7 * t)
    sea = _over(_colour(20, 60, 100), _colour(240, 150, 90), waves * 0.45 * (1.3 - Y))
    image = _over(image, sea, torch.sigmoid((Y - 0.62) / 0.006))
    cliff = torch.sigmoid((Y - 0.55 - 0.5 * (X - 0.25).abs() ** 1.4) / 0.01) * (X < 0.75)
    image = _over(image, _colour(38, 34, 44), cliff)
    tower = ((X - 0.25).abs() < 0.035 + 0.02 * Y) & (Y > 0.2) & (Y < 0.56)
    image = _over(image, _colour(235, 228, 220), tower.float())
    return _over(image, _colour(255, 245, 200), _disc(0.25, 0.18, 0.03 + 0.012 * math.sin(6 * t)))


def balloon(t: float) -> Tensor:
    """A red balloon over snow."""
    image = _over(_colour(110, 170, 235), _colour(215, 232, 250), Y)
    for base, size, level, speed in ((0.62, 0.08, 205, 0.02), (0.75, 0.06, 235, 0.05)):
        ridge = base + size * torch.sin(4 * X + speed * t * 8) + size / 2 * torch.sin(9 * X + 1)
        snow = _colour(level, level + 8, level + 18)
        image = _over(image, snow, torch.sigmoid((Y - ridge) / 0.006))
    x, y = 0.35 + 0.5 * t, 0.36 + 0.04 * math.sin(5 * t)
    image = _over(image, _colour(205, 40, 45), _disc(x, y, 0.13))
    image = _over(image, _colour(255, 150, 140), _disc(x - 0.045, y - 0.05, 0.035, 0.02) * 0.8)
    basket = ((X - x).abs() < 0.025) & ((Y - y - 0.2).abs() < 0.025)
    return _over(image, _colour(120, 80, 40), basket.float())


def rain(t: float) -> Tensor:
    """Lights of a street at night, out of focus, and rain."""
    image = _over(_colour(12, 16, 34), _colour(30, 26, 46), Y).expand(3, HEIGHT, WIDTH)
    draws = torch.Generator().manual_seed(4)
    for x, y, size, hue in torch.rand(26, 4, generator=draws).tolist():
        warm = _colour(255, 170 + 70 * hue, 90) if hue < 0.7 else _colour(90, 190, 255)
        shift = 0.02 * math.sin(2 * t + 9 * hue)
        spot = _disc(1.78 * x + shift, 0.2 + 0.6 * y, 0.025 + 0.05 * size, 0.006)
        image = _over(image, warm, spot * (0.35 + 0.3 * size))
    streaks = torch.sin(150 * X + 20 * torch.sin(37 * X)) * torch.sin(
        14 * Y - 30 * t + 90 * X.sin()
    )
    return (image + 0.10 * (streaks > 0.93)).clamp(0, 1)


def leaves(t: float) -> Tensor:
    """Leaves that sway before the light."""
    image = _over(_colour(240, 246, 190), _colour(120, 180, 90), (Y + 0.2 * X).clamp(0, 1))
    for number in range(14):
        sway = 0.05 * math.sin(3 * t + number)
        x, y = 0.13 * number + sway, 0.25 + 0.5 * abs(math.sin(number * 2.3))
        turn = 0.6 + 0.5 * math.sin(number * 1.7) + sway * 3
        along = (X - x) * math.cos(turn) + (Y - y) * math.sin(turn)
        across = -(X - x) * math.sin(turn) + (Y - y) * math.cos(turn)
        inside = torch.sigmoid((0.16 - along.abs() - 5 * across**2 / 0.16) / 0.01)
        green = _colour(30 + 6 * number, 110 + 7 * (number % 5), 40)
        image = _over(image, green, inside)
        image = _over(image, _colour(170, 205, 110), inside * (across.abs() < 0.004).float() * 0.7)
    return image


PROMPTS: dict[str, tuple[str, Callable[[float], Tensor]]] = {
    "lighthouse": ("a lighthouse on a cliff at sunset, waves roll in below", lighthouse),
    "balloon": ("a red balloon drifts over snowy hills, wide shot", balloon),
    "rain": ("street lights at night, out of focus, in heavy rain", rain),
    "leaves": ("green leaves sway in the wind, backlit, close up", leaves),
}


@cache  # it is the same at every step
def drawn(draw: Callable[[float], Tensor]) -> Tensor:
    """[T, 3, H, W], what the prompt asks for."""
    return torch.stack([draw(n / FPS).float().expand(3, HEIGHT, WIDTH) for n in range(FRAMES)])


def film(draw: Callable[[float], Tensor], step: int, name: str) -> Tensor:
    """uint8 [T, H, W, 3]: what a model of so many steps would make of it, roughly."""
    sure = min(1.0, (step / STEPS[-1]) ** 0.7 + 0.06)
    draws = torch.Generator().manual_seed(step * 7 + len(name))
    small = max(9, int(HEIGHT * sure**1.5))
    seen = functional.interpolate(drawn(draw), size=(small, small * WIDTH // HEIGHT), mode="area")
    seen = functional.interpolate(seen, size=(HEIGHT, WIDTH), mode="bicubic")
    coarse = torch.rand(1, 3, 3, 9, 16, generator=draws)
    size = (FRAMES, HEIGHT, WIDTH)
    blobs = functional.interpolate(coarse, size=size, mode="trilinear")[0].transpose(0, 1)
    mixed = torch.lerp(blobs, seen, sure**0.6).clamp(0, 1)
    return (mixed * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sampled(root: Path, stage: str, better: float = 1.0) -> RunDir:
    """A run whose checkpoints were sampled."""
    run = create_run(root, stage)
    run.run_json.write_text("{}")
    rows = [
        {
            "global_step": s,
            "loss": 0.42 + 0.3 * math.exp(-s / 700 * better),
            "attempt": 1 + s // 2000,
        }
        for s in range(10, STEPS[-1] + 1, 10)
    ]
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    draws = torch.Generator().manual_seed(1)
    clips = torch.rand(24, generator=draws)
    for step in STEPS:
        losses = 0.4 + 0.1 * clips + 0.25 * math.exp(-step / 900 * better)
        losses += 0.01 * torch.rand(24, generator=draws)
        with run.validation.open("a") as file:
            file.write(f"{json.dumps({'global_step': step, 'losses': losses.tolist()})}\n")
        _publish(run, step, better)
    return run


def _publish(run: RunDir, step: int, better: float) -> None:
    folder = run.evaluation("low4s", step)
    videos = []
    for name, (prompt, draw) in PROMPTS.items():
        made = film(draw, min(STEPS[-1], int(step * better)), name)
        if (step, name) == (COLLAPSED, "rain"):
            made[:] = made[:1]
        path = folder / f"{name}.mp4"
        write_video(made, path, FPS)
        write_poster(made, poster_of(path))
        videos.append(
            {
                "name": path.name,
                "prompt": prompt,
                "seed": 42,
                "height": HEIGHT,
                "width": WIDTH,
                "poster": poster_of(path).name,
                "measures": measures_of(made),
            }
        )
    alarms = find_alarms(videos)
    result = {
        "preset": "low4s",
        "global_step": step,
        "epoch": step // 1500,
        "checkpoint": f"epoch{step // 1500}-global_step{step}",
        "digest": "0",
        "weights": "ema",
        "videos": videos,
        "alarms": [{**asdict(alarm), "text": str(alarm)} for alarm in alarms],
    }
    write_json(run.evaluation_result("low4s", step), result)


def shot(
    browser: Browser,
    address: str,
    path: Path,
    act: Callable[[Page], None],
    *,
    size: ViewportSize,
    dark: bool = False,
) -> None:
    """One picture, once the page has done what `act` asks and shows all its videos."""
    scheme = "dark" if dark else "light"
    with browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".cell")
        act(page)
        page.wait_for_timeout(1500)
        page.screenshot(path=path)
    picture = Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def _view(name: str) -> Callable[[Page], None]:
    return lambda page: page.click(f"#tab-{name}")


def _play(page: Page) -> None:
    page.click("[data-play='0']")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    desktop: ViewportSize = {"width": 1180, "height": 660}
    phone: ViewportSize = {"width": 390, "height": 760}
    with tempfile.TemporaryDirectory() as root, sync_playwright() as playwright:
        runs = [sampled(Path(root), "stage1"), sampled(Path(root), "stage1b", better=1.4)]
        one = write_gallery(runs[:1]).as_uri()
        # root, as in containers, has no sandbox
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for dark in (False, True):
            name = "dark" if dark else "light"
            shot(browser, one, folder / f"grid-{name}.png", _play, size=desktop, dark=dark)
            shot(browser, one, folder / f"phone-{name}.png", lambda _: None, size=phone, dark=dark)
        shot(browser, one, folder / "phone-curves.png", _view("curves"), size=phone)
        shot(browser, one, folder / "phone-blind.png", _view("blind"), size=phone)
        shot(browser, one, folder / "slider.png", _view("slider"), size=desktop)
        two = write_gallery(runs).as_uri()
        shot(browser, two, folder / "blind.png", _view("blind"), size=desktop)
        shot(browser, two, folder / "curves.png", _view("curves"), size=desktop)
        shot(browser, two, folder / "curves-dark.png", _view("curves"), size=desktop, dark=True)
        browser.close()


if __name__ == "__main__":
    main()
