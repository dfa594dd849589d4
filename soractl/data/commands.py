"""The `data` commands: read arguments, call one function, hand the result to output."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from soractl.remote.options import complete_hosts
from soractl.stages.options import StageName
from soractl.terminal.options import Json, Overrides

app = typer.Typer(help="Prepare and examine tables of clips.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="The table to write: .csv or .parquet.")]
Table = Annotated[Path, typer.Argument(metavar="TABLE", help="A table of clips.")]


@app.command("info")
def info(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Tables with a path, or folders.")
    ],
    out: Out,
    root: Annotated[
        Path | None, typer.Option(help="The folder in which the tables' clips lie.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Files read at once; 0: a core each.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure clips: frames, size, aspect, fps, bytes.

    A killed command goes on where it was. What cannot be read goes into OUT.failed.csv.
    """
    from soractl.data import info as data_info
    from soractl.data import picture as data_picture
    from soractl.data import report as data_report
    from soractl.terminal import output

    wishes = data_info.Wishes(tuple(inputs), out, root, workers)
    with output.display() as display:
        told = data_info.info(wishes, display.show)
    is_complete = len(told.table) and not told.lost
    figure = data_picture.histograms({"clips": told.table}) if is_complete else None
    picture = data_picture.save(figure, out.with_suffix(".png"))
    file = picture.file
    output.report(data_report.info_lines(told, file), data_report.info_json(told, file), as_json)
    output.note(picture.notes)
    raise typer.Exit(told.exit_code)


@app.command("filter")
def keep(
    table: Table,
    out: Out,
    min_frames: Annotated[int | None, typer.Option(min=0, help="Drop shorter clips.")] = None,
    max_mb: Annotated[float | None, typer.Option(help="Drop files of so many MiB or more.")] = None,
    min_pixels: Annotated[
        int | None, typer.Option(min=0, help="Drop smaller: height x width.")
    ] = None,
    no_empty_captions: Annotated[
        bool,
        typer.Option("--no-empty-captions/--keep-empty-captions", help="Drop clips without text."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Keep the clips that are worth training on, and say why the others fell out.

    OUT.dropped.csv names each of them.
    """
    from soractl.data import filter as data_filter
    from soractl.data import picture as data_picture
    from soractl.data import report as data_report
    from soractl.terminal import output

    wishes = data_filter.Wishes(table, out, min_frames, max_mb, min_pixels, no_empty_captions)
    told = data_filter.keep(wishes)
    series = {"before": told.before, "after": told.after}
    figure = data_picture.histograms(series) if len(told.after) else None
    picture = data_picture.save(figure, out.with_suffix(".png"))
    lines = data_report.filter_lines(told, picture.file)
    output.report(lines, data_report.filter_json(told, picture.file), as_json)
    output.note(picture.notes)
    raise typer.Exit(told.exit_code)


@app.command("check")
def check(
    table: Table,
    hostfile: Annotated[
        str | None,
        typer.Option("--hostfile", help="Nodes that share the work; they see the same files."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A table of the healthy clips to write.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the job log.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="So, and check again what failed.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Clips at once on a node; 0: a core each.")
    ] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that a clip may take.")] = 300,
    as_json: Json = False,
) -> None:
    """Decode every clip from its first to its last frame.

    The job log TABLE.check.jsonl has a line for each clip.
    """
    from soractl.data import check as data_check
    from soractl.data import picture as data_picture
    from soractl.data import report as data_report
    from soractl.terminal import output

    wishes = data_check.Wishes(table, out, hostfile, workers, timeout, resume, retry_failed)
    with output.display() as display:
        told = data_check.check(wishes, os.environ, display.show)
    picture = data_picture.Picture()
    if out is not None and len(told.healthy) and not told.left:
        series = {"all": told.table, "healthy": told.healthy}
        picture = data_picture.save(data_picture.histograms(series), out.with_suffix(".png"))
    file = picture.file
    output.report(data_report.check_lines(told, file), data_report.check_json(told, file), as_json)
    output.note(picture.notes)
    raise typer.Exit(told.exit_code)


@app.command("merge")
def merge(
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Tables of clips.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Write several tables as one, each clip once.

    Columns of OpenVid and MiraData are known by their names.
    """
    from soractl.data import merge as data_merge
    from soractl.data import picture as data_picture
    from soractl.data import report as data_report
    from soractl.terminal import output

    told = data_merge.merge(tables, out)
    picture = data_picture.save(data_picture.histograms(told.tables), out.with_suffix(".png"))
    lines = data_report.merge_lines(told, picture.file)
    output.report(lines, data_report.merge_json(told, picture.file), as_json)
    output.note(picture.notes)


@app.command("encode")
def encode(
    stage: StageName,
    out: Annotated[
        Path, typer.Option("--out", help="The folder of features, which all nodes share.")
    ],
    hostfile: Annotated[
        str | None,
        typer.Option(
            "--hostfile", help="Nodes that share the work.", autocompletion=complete_hosts
        ),
    ] = None,
    variants: Annotated[
        int, typer.Option(min=1, help="Draws of bucket and window that are kept of each clip.")
    ] = 1,
    only: Annotated[
        Literal["text", "video"] | None, typer.Option(help="Captions alone, or latents alone.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how large it gets.")] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Encode a stage's clips and captions once, so that training need not.

    The same command goes on where it was killed. `--set data.features=OUT` trains on the result.
    """
    from soractl.data import encode as data_encode
    from soractl.data import report as data_report
    from soractl.remote.connections import Connections
    from soractl.terminal import output

    kinds = (only,) if only else data_encode.KINDS
    wishes = data_encode.Wishes(stage, out, hostfile, variants, kinds, tuple(overrides or ()))
    source, facts = data_encode.prepare(wishes, os.environ)
    with Connections(facts.ssh) as remote:
        planned = data_encode.plan(wishes, source, facts, os.environ, remote)
        lines = data_report.size_lines(planned)
        if dry_run:
            output.report(lines, data_report.size_json(planned), as_json)
            return
        output.note(lines)
        with output.display() as display:
            told = data_encode.encode(planned, remote, display.show)
    output.report(data_report.encode_lines(told), data_report.encode_json(told), as_json)
    raise typer.Exit(told.exit_code)


@app.command("buckets")
def buckets(
    stage: StageName,
    table: Table,
    ranks: Annotated[int, typer.Option(min=1, help="GPUs that train.")] = 1,
    picture: Annotated[
        Path | None, typer.Option(help="A map of resolutions and lengths to write: .png.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show where a stage's buckets put the clips of a table in its first epoch."""
    from soractl.data import buckets as data_buckets
    from soractl.data import picture as data_picture
    from soractl.data import report as data_report
    from soractl.terminal import output, text

    if picture is not None:
        data_picture.check_output(picture)
    told = data_buckets.first_epoch(stage, table, ranks, overrides or ())
    drawn = data_picture.Picture()
    if picture is not None:
        title = f"{stage}, first epoch of {text.count(told.clips, 'clip')} in {table.name}"
        places, fallen = told.axes(), told.fallen
        figure = data_picture.bucket_map(title, told.shares(), places, fallen, told.clips)
        drawn = data_picture.save(figure, picture)
    lines = data_report.buckets_lines(told, drawn.file)
    output.report(lines, data_report.buckets_json(told, drawn.file), as_json)
    output.note(drawn.notes)
    raise typer.Exit(told.exit_code)
