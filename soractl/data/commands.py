"""The `data` commands: read arguments, call one function, hand the result to output."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from soractl.remote.options import complete_hosts
from soractl.stages.options import StageName
from soractl.terminal.options import Json, Overrides

if TYPE_CHECKING:
    from pandas import DataFrame

app = typer.Typer(help="Prepare and examine tables of clips.", no_args_is_help=True)

WorkHosts = Annotated[
    str | None,
    typer.Option("--hostfile", help="Nodes that share the work.", autocompletion=complete_hosts),
]
Out = Annotated[Path, typer.Option("--out", help="The table to write: .csv or .parquet.")]
Table = Annotated[Path, typer.Argument(metavar="TABLE", help="A table of clips.")]


@app.command("info")
def info(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", help="Tables with a column path, or folders of clips."),
    ],
    out: Out,
    root: Annotated[
        Path | None, typer.Option(help="The folder of clips that tables name by relative paths.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Files read at once; 0: one for each core.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Measure clips: frames, size, aspect, fps, bytes.

    After a kill the same command continues. OUT.failed.csv names files that cannot be read.
    """
    from soractl.data import info as data_info
    from soractl.data import report as data_report
    from soractl.terminal import progress_bar

    options = data_info.InfoOptions(tuple(inputs), out, root, workers)
    with progress_bar.display() as display:
        result = data_info.info(options, display.show)
    lines = partial(data_report.info_lines, result)
    values = partial(data_report.info_json, result)
    _report(result.series, lines, values, out, as_json)
    raise typer.Exit(result.exit_code)


@app.command("filter")
def keep(
    table: Table,
    out: Out,
    min_frames: Annotated[
        int | None, typer.Option(min=0, help="Drop clips with fewer frames.")
    ] = None,
    max_mb: Annotated[
        float | None, typer.Option(help="Drop files of this size or larger, in MiB.")
    ] = None,
    min_pixels: Annotated[
        int | None, typer.Option(min=0, help="Drop clips with fewer pixels: height x width.")
    ] = None,
    no_empty_captions: Annotated[
        bool,
        typer.Option("--no-empty-captions/--keep-empty-captions", help="Drop clips without text."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Keep the clips that are worth training on, and count the others by reason.

    OUT.dropped.csv names each dropped clip.
    """
    from soractl.data import filter as data_filter
    from soractl.data import report as data_report

    limits = (min_frames, max_mb, min_pixels)
    result = data_filter.keep(data_filter.FilterOptions(table, out, *limits, no_empty_captions))
    lines = partial(data_report.filter_lines, result)
    values = partial(data_report.filter_json, result)
    _report(result.series, lines, values, out, as_json)
    raise typer.Exit(result.exit_code)


@app.command("check")
def check(
    table: Table,
    hostfile: WorkHosts = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A table of the healthy clips to write.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the job log.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Continue, and check failed clips again.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Clips at once on a node; 0: one for each core.")
    ] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that a clip may take.")] = 300,
    as_json: Json = False,
) -> None:
    """Decode every clip from its first to its last frame.

    The job log TABLE.check.jsonl gets a line for each clip.
    """
    from soractl.data import check as data_check
    from soractl.data import report as data_report
    from soractl.terminal import progress_bar

    again = (resume, retry_failed)
    options = data_check.CheckOptions(table, out, hostfile, workers, timeout, *again)
    with progress_bar.display() as display:
        result = data_check.check(options, os.environ, display.show)
    lines = partial(data_report.check_lines, result)
    values = partial(data_report.check_json, result)
    _report(result.series, lines, values, out or table, as_json)
    raise typer.Exit(result.exit_code)


@app.command("merge")
def merge(
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Tables of clips.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Write several tables as one, each clip once.

    The columns of OpenVid and MiraData are renamed as training needs them.
    """
    from soractl.data import merge as data_merge
    from soractl.data import report as data_report

    result = data_merge.merge(tables, out)
    lines = partial(data_report.merge_lines, result)
    values = partial(data_report.merge_json, result)
    _report(result.series, lines, values, out, as_json)


@app.command("encode")
def encode(
    stage: StageName,
    out: Annotated[Path, typer.Option("--out", help="The folder of features; all nodes share it.")],
    hostfile: WorkHosts = None,
    variants: Annotated[
        int, typer.Option(min=1, help="Draws of bucket and window to keep for each clip.")
    ] = 1,
    only: Annotated[
        Literal["text", "video"] | None, typer.Option(help="Only captions, or only latents.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the size of the features and stop.")
    ] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Encode a stage's clips and captions once, instead of in every epoch.

    After a kill the same command continues. `--set data.features=OUT` trains on the result.
    """
    from soractl.data import encode as data_encode
    from soractl.data import report as data_report
    from soractl.terminal import output, progress_bar

    kinds = (only,) if only else data_encode.KINDS
    settings = tuple(overrides or ())
    options = data_encode.EncodeOptions(stage, out, hostfile, variants, kinds, settings)
    with data_encode.planned(options, os.environ) as (plan, remote):
        lines = data_report.features_lines(plan)
        if dry_run:
            return output.report(lines, data_report.features_json(plan), as_json)
        output.note(lines)
        with progress_bar.display() as display:
            result = data_encode.encode(plan, remote, display.show)
    output.report(data_report.encoded_lines(result), data_report.encoded_json(result), as_json)
    raise typer.Exit(result.exit_code)


@app.command("buckets")
def buckets(
    stage: StageName,
    table: Table,
    ranks: Annotated[int, typer.Option(min=1, help="Number of GPUs that train.")] = 1,
    picture: Annotated[
        Path | None, typer.Option(help="Write a map of resolutions and lengths here: .png.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show where a stage's buckets put the clips of a table in its first epoch."""
    from soractl.data import buckets as data_buckets
    from soractl.data import picture as data_picture
    from soractl.data import report as data_report
    from soractl.terminal import output

    if picture is not None:
        data_picture.check_output(picture)
    epoch = data_buckets.first_epoch(stage, table, ranks, overrides or ())
    drawn = data_picture.Picture()
    if picture is not None:
        drawn = data_picture.save(data_picture.bucket_map(epoch), picture)
    lines = data_report.epoch_lines(epoch, drawn.file)
    values = data_report.epoch_json(epoch, drawn.file)
    output.report(lines, values, as_json)
    output.note(drawn.notes)
    raise typer.Exit(epoch.exit_code)


@app.command("sheet")
def sheet(
    stage: StageName,
    table: Table,
    out: Annotated[
        Path | None, typer.Option(help="The page, .html, beside which a .png lies.")
    ] = None,
    per_bucket: Annotated[int, typer.Option(min=1, help="Clips of each bucket.")] = 3,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Draw a contact sheet: clips of each bucket as the model sees them, and what is cut off.

    With their captions, and with clips that no bucket takes. The window of frames is the first
    epoch's.
    """
    from soractl.data import sheet as data_sheet
    from soractl.data import sheet_drawing
    from soractl.terminal import output

    page = out or table.with_name(f"{table.stem}-{stage}.html")
    sheet_drawing.check_output(page)
    made = data_sheet.make(stage, table, per_bucket, overrides or ())
    files = sheet_drawing.write(made, page)
    lines, values = sheet_drawing.lines(made, files), sheet_drawing.as_json(made, *files)
    output.report(lines, values, as_json)


def _report(
    series: "Mapping[str, DataFrame]",
    lines: Callable[[Path | None], Iterable[Any]],
    values: Callable[[Path | None], dict[str, Any]],
    beside: Path,
    as_json: bool,
) -> None:
    """Report on tables, with their histograms drawn beside one; a note says why there are none."""
    from soractl.data import picture as data_picture
    from soractl.terminal import output

    picture = data_picture.save(data_picture.histograms(series), beside.with_suffix(".png"))
    output.report(lines(picture.file), values(picture.file), as_json)
    output.note(picture.notes)
