"""Pictures of tables of clips: histograms side by side, and who goes into which bucket."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soractl.errors import SoractlError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

BINS = 40
COLOURS = ("#9aa5b1", "#d9480f", "#1c7ed6", "#2f9e44")
# column, what it shows, a factor, and whether its axis is logarithmic
PANELS = (
    ("num_frames", "length (frames)", 1.0, True),
    ("resolution", "size (thousand pixels; 720p: 922)", 1e-3, True),
    ("file_size", "file size (MB)", 1e-6, True),
    ("aspect_ratio", "aspect (height / width)", 1.0, False),
)


def histograms(tables: Mapping[str, "DataFrame"], path: Path) -> Path | None:
    """Length, size and aspect of each table's clips, as PNG; None if no table knows them."""
    panels = [panel for panel in PANELS if any(panel[0] in table for table in tables.values())]
    if not panels:
        return None
    figure, axes = _figure(len(panels), (4.2, 3.4))
    for axis, (column, label, factor, is_log) in zip(axes, panels, strict=True):
        values = {
            name: _known(table[column] * factor, is_log)
            for name, table in tables.items()
            if column in table
        }
        _histogram(axis, values, is_log)
        axis.set_xlabel(label)
    axes[0].set_ylabel("clips")
    handles, names = axes[0].get_legend_handles_labels()
    labels = [f"{name}: {len(tables[name])}" for name in names]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return _save(figure, path)


def heat_maps(
    title: str,
    maps: Mapping[str, Mapping[tuple[str, int], float]],
    axes: tuple[Sequence[str], Sequence[int]],
    path: Path,
) -> Path:
    """A map for each kind of share (0 to 1) by resolution and length, as PNG; no bucket = blank."""
    resolutions, lengths = axes
    size = (1.6 + 0.95 * len(lengths), 1.5 + 0.42 * len(resolutions))
    figure, panels = _figure(len(maps), size)
    figure.suptitle(title)
    panels[0].set_ylabel("resolution")
    for axis, (name, shares) in zip(panels, maps.items(), strict=True):
        grid = [
            [shares.get((place, length), float("nan")) for length in lengths]
            for place in resolutions
        ]
        axis.imshow(grid, cmap="YlOrRd", vmin=0, vmax=max([*shares.values(), 1e-9]), aspect="auto")
        for row, numbers in enumerate(grid):
            for column, share in enumerate(numbers):
                _write_share(axis, (column, row), share, max(shares.values()))
        axis.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        axis.set_yticks(range(len(resolutions)), resolutions)
        axis.set_xlabel("frames")
        axis.set_title(name)
    return _save(figure, path)


def check_output(path: Path) -> None:
    """SoractlError if a picture cannot be written there; to be asked before the work."""
    if path.suffix != ".png":
        raise SoractlError(f"{path}: the name of a picture ends in .png")
    if not path.parent.is_dir():
        raise SoractlError(f"{path}: no folder {path.parent}", hint=f"mkdir -p {path.parent}")


def _figure(count: int, size: tuple[float, float]) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(count * size[0], size[1]), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _histogram(axis: Any, values: Mapping[str, Any], is_log: bool) -> None:
    import numpy
    from matplotlib.ticker import LogLocator

    everything = numpy.concatenate([*values.values(), []])
    if len(everything) == 0:
        return
    space: Callable[..., Any] = numpy.geomspace if is_log else numpy.linspace
    low, high = everything.min(), everything.max()
    bins = space(low * 0.9, high * 1.1, BINS + 1) if low < high else (low * 0.5, high * 1.5)
    for (name, numbers), colour in zip(values.items(), _colours(len(values)), strict=True):
        axis.hist(numbers, bins, histtype="stepfilled", alpha=0.55, color=colour, label=name)
    if is_log:
        axis.set_xscale("log")
        ticks = (1, 2, 5) if high < 200 * low else (1, 3)  # or their numbers would touch
        axis.xaxis.set_major_locator(LogLocator(subs=ticks))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")


def _known(values: Any, is_log: bool) -> Any:
    """Numbers that an axis can show."""
    import numpy

    numbers = values.to_numpy(dtype=float)
    return numbers[numpy.isfinite(numbers) & ((numbers > 0) | (not is_log))]


def _write_share(axis: Any, place: tuple[int, int], share: float, most: float) -> None:
    if share == share:  # not a number where there is no bucket
        colour = "white" if share > 0.6 * most else "black"
        text = f"{100 * share:.2g} %" if share else "0"
        axis.text(*place, text, ha="center", va="center", fontsize=8, color=colour)


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _save(figure: "Figure", path: Path) -> Path:
    draft = path.with_name(f".{path.stem}.draft{path.suffix}")
    figure.savefig(draft, dpi=110)
    draft.replace(path)
    return path
