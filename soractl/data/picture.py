"""Pictures of tables of clips: histograms side by side, and maps of buckets."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.data.buckets import Epoch
from soractl.errors import SoractlError
from soractl.files import output as data_output
from soractl.terminal import text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

BINS = 41  # odd: a lone value stands in the middle of one
COLOURS = (
    *("#9aa5b1", "#d9480f", "#1c7ed6", "#2f9e44", "#862e9c"),
    *("#f08c00", "#0b7285", "#e64980", "#5c3d2e"),
)
MOST_TICKS = 7
STEPS = (1, 2, 5, 10)  # between numbers on an axis
LETTER, PATCH, LINE = 0.085, 0.8, 0.22  # inches of a legend
# column, what it shows, a factor
PANELS = (
    ("num_frames", "length (frames)", 1.0),
    ("resolution", "size (thousand pixels; 720p: 922)", 1e-3),
    ("file_size", "file size (MB)", 1e-6),
    ("aspect_ratio", "aspect (height / width)", 1.0),
)


@dataclass(frozen=True)
class Picture:
    """File of a picture, or None with notes that say why there is none."""

    file: Path | None = None
    notes: tuple[str, ...] = ()


def save(figure: "Figure | None", path: Path) -> Picture:
    """Write a PNG if there is a figure; a full disk becomes a note, not an error."""
    if figure is None:
        return Picture()
    try:
        with data_output.aside(path) as draft:
            figure.savefig(draft, dpi=110)
    except SoractlError as fault:
        return Picture(notes=(f"no picture: {fault}",))
    return Picture(path)


def check_output(path: Path) -> None:
    """SoractlError if a picture cannot be written there; for use before the work."""
    if path.suffix != ".png":
        raise SoractlError(f"{path}: the name of a picture ends in .png")
    data_output.check_file(path)


def histograms(tables: Mapping[str, "DataFrame"]) -> "Figure | None":
    """Histograms of length, size and aspect, by table; None if no table has these columns."""
    panels = [panel for panel in PANELS if any(panel[0] in table for table in tables.values())]
    if not panels:
        return None
    series = _series(tables)
    figure, axes = _figure([list(range(len(panels)))], (4.2 * len(panels), 3.2))
    for number, (column, label, factor) in enumerate(panels):
        values = [
            _known([table[column] * factor for table in part if column in table])
            for part in series.values()
        ]
        _histogram(axes[number], values)
        axes[number].set_xlabel(label)
    axes[0].set_ylabel("clips")
    labels = [f"{name}: {sum(map(len, part))}" for name, part in series.items()]
    _legend(figure, labels)
    return figure


def bucket_map(epoch: Epoch) -> "Figure":
    """One map for each kind of share (0 to 100), by resolution and length; no bucket is blank.

    Below them, how many of the clips are not trained on, by reason.
    """
    shares, dropped = epoch.shares(), epoch.dropped_by_reason
    resolutions, lengths = epoch.axes()
    heights = (1.1 + 0.42 * len(resolutions), 0.7 + 0.36 * len(dropped))
    width = len(shares) * (1.6 + 0.95 * len(lengths))
    names = list(shares)
    figure, axes = _figure([names, ["dropped"] * len(names)], (width, 0.4 + sum(heights)), heights)
    clips = text.count(epoch.clips, "clip")
    figure.suptitle(f"{epoch.stage}, first epoch of {clips} in {epoch.table.name}")
    axes[names[0]].set_ylabel("resolution")
    for name in names:
        _heat_map(axes[name], shares[name], (resolutions, lengths))
        axes[name].set_title(name)
    _bars(axes["dropped"], dropped, epoch.clips)
    return figure


def ticks(low: float, high: float) -> list[float]:
    """Positions of numbers on a logarithmic axis: enough of them, and none touches another."""
    from matplotlib.ticker import MaxNLocator

    if high <= 5 * low:
        marks = MaxNLocator(5, steps=STEPS).tick_values(low, high)
        return [float(mark) for mark in marks if low <= mark <= high]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = (1, 2, 5) if high <= 100 * low else (1, 3) if high <= 1e4 * low else (1,)
    marks = [step * 10.0**power for power in powers for step in steps]
    shown = [mark for mark in marks if low <= mark <= high]
    return shown[:: math.ceil(len(shown) / MOST_TICKS)]


def _figure(
    rows: list[list[Any]], size: tuple[float, float], heights: Sequence[float] | None = None
) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplot_mosaic(rows, height_ratios=heights)
    for axis in axes.values():
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _series(tables: Mapping[str, "DataFrame"]) -> dict[str, list["DataFrame"]]:
    """Tables of each colour by their label in the legend; the smallest ones share a colour."""
    names = list(tables)
    if len(tables) > len(COLOURS):
        largest = sorted(tables, key=lambda name: -len(tables[name]))[: len(COLOURS) - 1]
        names = [name for name in tables if name in largest]
    series = {name: [tables[name]] for name in names}
    rest = [table for name, table in tables.items() if name not in series]
    return series | ({f"{len(rest)} others": rest} if rest else {})


def _known(columns: "Sequence[Any]") -> Any:
    """Values of all columns that a logarithmic axis can show: finite and above 0."""
    import numpy

    numbers = numpy.concatenate([column.to_numpy(dtype=float) for column in columns] or [[]])
    return numbers[numpy.isfinite(numbers) & (numbers > 0)]


def _histogram(axis: Any, values: Sequence[Any]) -> None:
    import numpy
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    everything = numpy.concatenate(values)
    if len(everything) == 0:
        axis.set(xticks=[], yticks=[])
        axis.text(0.5, 0.5, "unknown", transform=axis.transAxes, ha="center", color="grey")
        return
    low, high = float(everything.min()), float(everything.max())
    low, high = (low * 0.9, high * 1.1) if low < high else (low / 4, high * 4)
    bins = numpy.geomspace(low, high, BINS + 1)
    looks: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.55}
    if len(values) > 2:  # more than two filled ones hide each other
        looks = {"histtype": "step", "linewidth": 1.6}
    for numbers, colour in zip(values, COLOURS, strict=False):
        axis.hist(numbers, bins, color=colour, **looks)
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(FixedLocator(ticks(low, high)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS, integer=True))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda number, _: _short(number))


def _legend(figure: "Figure", labels: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    width = figure.get_figwidth()
    most = int((min(width, 6.0) - PATCH) / LETTER)
    shown = [_cut(label, most) for label in labels]
    columns = int(width / (PATCH + LETTER * max(map(len, shown))))
    figure.set_figheight(figure.get_figheight() + LINE * math.ceil(len(shown) / columns))
    figure.legend(
        [Patch(color=colour) for colour in COLOURS[: len(shown)]],
        shown,
        loc="outside upper center",
        ncols=min(len(shown), columns),
        frameon=False,
    )


def _cut(label: str, most: int) -> str:
    """Both ends of a long one: tables often differ in the last letters of their names."""
    half = most // 2
    return label if len(label) <= most else f"{label[: half - 1]}…{label[-half:]}"


def _heat_map(
    axis: Any,
    shares: Mapping[tuple[str, int], float],
    places: tuple[Sequence[str], Sequence[int]],
) -> None:
    resolutions, lengths = places
    most = max([*shares.values(), 1e-9])
    grid = [[shares.get((place, length), math.nan) for length in lengths] for place in resolutions]
    axis.imshow(grid, cmap="YlOrRd", vmin=0, vmax=most, aspect="auto")
    for row, numbers in enumerate(grid):
        for column, share in enumerate(numbers):
            if not math.isnan(share):
                colour = "white" if share > 0.6 * most else "black"
                looks: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
                axis.text(column, row, _percent(share) if share else "0", color=colour, **looks)
    axis.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axis.set_yticks(range(len(resolutions)), resolutions)
    axis.set_xlabel("frames")


def _bars(axis: Any, dropped: Mapping[str, int], clips: int) -> None:
    bars = axis.barh(range(len(dropped)), list(dropped.values()), color=COLOURS[1], height=0.6)
    labels = [f"{count} ({_percent(100 * count / clips)})" for count in dropped.values()]
    axis.bar_label(bars, labels, padding=4, fontsize=8)
    reasons = [textwrap.fill(reason, 34) for reason in dropped]
    axis.set_yticks(range(len(dropped)), reasons, fontsize=8)
    axis.set_xlim(0, 1.2 * max([*dropped.values(), 1]))
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.invert_yaxis()
    axis.set_title(f"not trained on: {sum(dropped.values())} of {text.count(clips, 'clip')}")


def _percent(share: float) -> str:
    return f"{share:.1f} %"


def _short(number: float) -> str:
    """`0.5`, `5000`, `20k`, `1.5M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if 1e4 <= abs(number) < 1e12 and abs(number) >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"
