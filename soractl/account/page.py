"""The report of a run as one HTML page: pictures drawn here as SVG, nothing fetched from anywhere.

Colours follow the reader's light or dark setting; each picture has its numbers in words beside it.
"""

import html
import math
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise

from soractl.account.goodput import Account, Part
from soractl.terminal import text

WIDTH, LOSS_HEIGHT, BAR_HEIGHT, HISTOGRAM_HEIGHT = 900, 240, 34, 160
MOST_POINTS = 2000
BINS = 40
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {
    Part.TRAINING: "#009E73",
    Part.FIRST_STEP: "#56B4E9",
    Part.SAVING: "#0072B2",
    Part.LOST: "#D55E00",
    Part.DETECTING: "#CC79A7",
    Part.EVIDENCE: "#8E44AD",
    Part.KILLING: "#7F7F7F",
    Part.STARTING: "#E69F00",
    Part.WAITING: "#F0E442",
    Part.ENDING: "#A6CEE3",
}
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --faint: #d8d8d8;
  --line: #0072B2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --faint: #3c3c3c; --line: #56B4E9; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 940px; margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--ink); font-size: 12px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.w { min-width: 18rem; } .c { min-width: 9rem; }
polyline, line { vector-effect: non-scaling-stroke; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--faint);
  vertical-align: top; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.figures b { display: block; font-size: 1.6rem; }
h2 { margin-top: 2rem; font-size: 1.1rem; }
@media (max-width: 600px) { svg text { font-size: 24px; } .figures b { font-size: 1.3rem; } }
"""


def page(found: Account, figures: Sequence[tuple[str, str]]) -> str:
    """The whole page; `figures` are names and values to stand at its top."""
    name = html.escape(found.run)
    shown = "".join(
        f"<div><b>{html.escape(value)}</b>{html.escape(title)}</div>" for title, value in figures
    )
    parts = [
        f"<h1>{name}</h1><div class=figures>{shown}</div>",
        f"<h2>Where the time went</h2>{_bar(found)}{_parts_table(found)}",
        f"<h2>Loss over wall time</h2>{_loss(found)}",
        f"<h2>Time of a step</h2>{_histogram(found)}",
        f"<h2>Interruptions by cause</h2>{_causes(found)}",
        f"<h2>Interruptions</h2>{_interruptions(found)}",
    ]
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="'
        f'width=device-width"><title>{name}</title><style>{STYLE}</style>{"".join(parts)}</html>\n'
    )


def _bar(found: Account) -> str:
    scale = WIDTH / found.wall_s if found.wall_s else 0.0
    rects = [
        f'<rect x="{(one.begin_unix_s - found.begin_unix_s) * scale:.2f}" y="0" '
        f'width="{max(one.seconds * scale, 0.3):.2f}" height="{BAR_HEIGHT}" '
        f'fill="{COLOURS[one.part]}"><title>{one.part}, attempt {one.attempt}: '
        f"{text.duration(one.seconds)}</title></rect>"
        for one in found.segments
    ]
    return _svg(BAR_HEIGHT + 28, [*rects, *_hours(found, BAR_HEIGHT + 22)], "the bar of time")


def _parts_table(found: Account) -> str:
    rows = [
        f'<tr><td><span class=key style="background:{COLOURS[part]}"></span>{part}</td>'
        f"<td class=n>{text.duration(seconds)}</td>"
        f"<td class=n>{100 * seconds / found.wall_s:.1f} %</td></tr>"
        for part, seconds in found.seconds.items()
        if seconds and found.wall_s
    ]
    return f"<table>{''.join(rows)}</table>"


def _loss(found: Account) -> str:
    """Loss of each logged step where it was trained, steps trained again included."""
    points = [
        (float(row["time_unix_s"]) - found.begin_unix_s, float(row["loss"]), row.get("attempt"))
        for row in found.rows
        if row.get("loss") is not None and "time_unix_s" in row
    ]
    if len(points) < 2 or not found.wall_s:
        return "<p>no losses yet</p>"
    points = points[:: math.ceil(len(points) / MOST_POINTS)]
    least, most = min(p[1] for p in points), max(p[1] for p in points)
    high = LOSS_HEIGHT - 30

    def place(point: tuple[float, float, object]) -> tuple[float, float]:
        share = (point[1] - least) / (most - least or 1.0)
        return point[0] / found.wall_s * WIDTH, 10 + (1 - share) * (high - 10)

    lines = [
        f'<line x1="{(one.unix_s - found.begin_unix_s) / found.wall_s * WIDTH:.1f}" y1="4" '
        f'x2="{(one.unix_s - found.begin_unix_s) / found.wall_s * WIDTH:.1f}" y2="{high}" '
        f'stroke="{COLOURS[Part.LOST]}" stroke-dasharray="4 3"><title>attempt {one.attempt} '
        f"{html.escape(one.state)}: {html.escape(one.text)}</title></line>"
        for one in found.interruptions
    ]
    paths: list[list[tuple[float, float]]] = [[place(points[0])]]
    for before, point in pairwise(points):
        if before[2] != point[2]:  # another attempt: no line across what was not trained
            paths.append([])
        paths[-1].append(place(point))
    for path in paths:
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
        lines.append(
            f'<polyline points="{line}" fill="none" stroke="var(--line)" stroke-width="1.5"/>'
        )
    labels = [
        f'<text x="2" y="12">{most:.4g}</text>',
        f'<text x="2" y="{high - 2}">{least:.4g}</text>',
    ]
    return _svg(LOSS_HEIGHT, [*lines, *labels, *_hours(found, LOSS_HEIGHT - 6)], "loss")


def _histogram(found: Account) -> str:
    """Of logged steps but the first of each attempt, which is the start's."""
    rows = [
        row for before, row in pairwise(found.rows) if row.get("attempt") == before.get("attempt")
    ]
    times = sorted(float(row["s_per_step"]) for row in rows if row.get("s_per_step"))
    if len(times) < 2:
        return "<p>no steps yet</p>"
    longest = times[int(0.99 * (len(times) - 1))]  # the rest is in the last bar
    least = times[0]
    width_s = (longest - least) / BINS or 1.0
    counts = [0] * BINS
    for seconds in times:
        counts[min(BINS - 1, int((seconds - least) / width_s))] += 1
    high = HISTOGRAM_HEIGHT - 24
    bars = [
        f'<rect x="{i * WIDTH / BINS + 1:.1f}" y="{high - count / max(counts) * high:.1f}" '
        f'width="{WIDTH / BINS - 2:.1f}" height="{count / max(counts) * high:.1f}" '
        f'fill="var(--line)"><title>{least + i * width_s:.3g} s: {count}</title></rect>'
        for i, count in enumerate(counts)
    ]
    median = times[len(times) // 2]
    y = HISTOGRAM_HEIGHT - 6
    labels = [
        f'<text x="2" y="{y}">{least:.3g} s</text>',
        f'<text x="{WIDTH - 2}" y="{y}" text-anchor="end">{longest:.3g} s</text>',
        f'<text x="{WIDTH / 2}" y="{y}" text-anchor="middle">'
        f"median {median:.3g} s, {len(times)} logged steps</text>",
    ]
    return _svg(HISTOGRAM_HEIGHT, [*bars, *labels], "histogram of step times")


def _causes(found: Account) -> str:
    rows = [
        (row.name, row.kind, row.count, f"{100 * row.share:.1f} %", text.duration(row.lost_s))
        for row in found.causes
    ]
    return _table(("cause", "kind", "count", "share", "lost"), rows, numbers=(2, 3, 4))


def _interruptions(found: Account) -> str:
    rows = [
        (
            *(one.attempt, one.state, one.name or one.cause, one.node or "-"),
            *("-" if one.step is None else one.step, one.lost_steps),
            text.duration(one.detected_s),
            "-" if one.repaired_s is None else text.duration(one.repaired_s),
            one.text,
        )
        for one in found.interruptions
    ]
    headers = ("attempt", "state", "cause", "node", "step", "lost steps", "detected", "repaired")
    return _table((*headers, "words"), rows, numbers=(0, 4, 5, 6, 7))


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int]) -> str:
    """A table that scrolls by itself where the page is narrow; `numbers`: columns of numbers."""
    if not rows:
        return "<p>none</p>"
    classes = [" class=n" if i in numbers else "" for i in range(len(headers))]
    wide = {"cause": " class=c", "words": " class=w"}
    classes = [known or wide.get(h, "") for known, h in zip(classes, headers, strict=True)]
    lines = ["".join(f"<th{c}>{name}</th>" for c, name in zip(classes, headers, strict=True))]
    lines += [
        "".join(f"<td{c}>{html.escape(str(x))}</td>" for c, x in zip(classes, row, strict=True))
        for row in rows
    ]
    shown = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=wide><table>{shown}</table></div>"


def _hours(found: Account, y: float) -> list[str]:
    """When it began and ended, under a picture of wall time."""
    begin, end = (
        time.strftime("%m-%d %H:%M", time.localtime(unix_s))
        for unix_s in (found.begin_unix_s, found.end_unix_s)
    )
    return [
        f'<text x="2" y="{y}">{begin}</text>',
        f'<text x="{WIDTH - 2}" y="{y}" text-anchor="end">{end}</text>',
    ]


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )
