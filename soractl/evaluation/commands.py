"""Commands that show what a model makes: `sample` and `eval`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from soractl.checkpoints.options import complete_checkpoint
from soractl.runs.options import complete_run
from soractl.terminal.options import Json, Runs, positive

app = typer.Typer()


@app.command()
def sample(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A checkpoint's folder, a run (latest, 7, 007-stage2).",
            autocompletion=complete_checkpoint,
        ),
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="A text; repeatable. {{ is a brace.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="One prompt a line; or .toml, .csv with id, text, seed."),
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="Videos of each prompt; 1.")] = None,
    frames: Annotated[
        str | None, typer.Option(help="A number, or 2s, 4s, 8s, 16s; 51 without it.")
    ] = None,
    resolution: Annotated[str | None, typer.Option(help="144p to 1080p, ...; 240p.")] = None,
    ratio: Annotated[str | None, typer.Option(help="Height to width; 9:16.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second; 24.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise; 42.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of the sampler; as the run's.")] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="Of the guidance; as the run's.")] = None,
    weights: Annotated[
        Literal["ema", "model"], typer.Option(help="The averages or the weights.")
    ] = "ema",
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="Picture or video that --mask-strategy takes frames from; repeatable."),
    ] = None,
    mask_strategy: Annotated[
        str | None,
        typer.Option(
            metavar="GROUPS",
            help="loop,reference,reference start,target start,length,edit; groups joined by ';'.",
        ),
    ] = None,
    loops: Annotated[int | None, typer.Option(help="Parts that continue one another; 1.")] = None,
    aesthetic_score: Annotated[float | None, typer.Option(help="For the prompt's end.")] = None,
    motion_score: Annotated[float | None, typer.Option(help="For the prompt's end.")] = None,
    camera_motion: Annotated[str | None, typer.Option(help="For the prompt's end.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of videos; samples/ in the run.")
    ] = None,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Sample videos from a checkpoint.

    Every GPU of this machine takes prompts. What is there from before is not made again.
    """
    from soractl.evaluation import report
    from soractl.evaluation import sample as sampling
    from soractl.terminal import output, progress_bar

    options = sampling.SampleOptions(
        checkpoint,
        prompt=tuple(prompt or ()),
        prompts=prompts,
        reference=tuple(reference or ()),
        mask_strategy=mask_strategy,
        num_samples=num_samples,
        loops=loops,
        aesthetic_score=aesthetic_score,
        motion_score=motion_score,
        camera_motion=camera_motion,
        frames=frames,
        resolution=resolution,
        ratio=ratio,
        fps=fps,
        steps=steps,
        cfg_scale=cfg_scale,
        seed=seed,
        weights=weights,
        out=out,
        runs=runs,
    )
    with progress_bar.display() as display:
        result = sampling.sample(options, os.environ, display.show)
    output.report(report.sampled_lines(result), report.sampled_json(result), as_json)
    raise typer.Exit(result.exit_code)


@app.command("eval")
def evaluate(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="latest, 7, or 007-stage2.", autocompletion=complete_run
        ),
    ],
    prompts: Annotated[
        Path,
        typer.Option(metavar="FILE", help="One prompt a line; or .toml, .csv with id, text, seed."),
    ],
    preset: Annotated[
        str, typer.Option(help="low4s, low16s, high4s, or a .toml file of one's own.")
    ] = "low4s",
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="HOST:DIR", help="Runs of another machine; results go back to it."
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(callback=positive, help="Seconds between looks for checkpoints.")
    ] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Sample what is there, then end.")] = False,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="Else the oldest first.")
    ] = False,
    first_of_epoch: Annotated[
        bool, typer.Option("--first-of-epoch", help="The first of each epoch, and the newest.")
    ] = False,
    weights: Annotated[
        Literal["ema", "model"], typer.Option(help="The averages or the weights.")
    ] = "ema",
    no_upload: Annotated[
        bool, typer.Option("--no-upload", help="Send no video to W&B after the training's end.")
    ] = False,
    serve: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Show the gallery on 127.0.0.1 meanwhile."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Sample on GPUs that are in use, too.")
    ] = False,
    as_json: Json = False,
    runs: Runs = "runs",
) -> None:
    """Sample every complete checkpoint of runs once, as they come.

    Videos go to eval/PRESET/STEP/ in the run. Several servers share a run; Ctrl-C ends one, and the
    same command goes on where it was.
    """
    from soractl.evaluation import evaluate as evaluation
    from soractl.evaluation import report
    from soractl.evaluation.presets import find_preset
    from soractl.evaluation.watch import WatchOptions, watch
    from soractl.terminal import output, progress_bar

    sampled = evaluation.EvalOptions(
        *find_preset(preset, weights),
        prompts,
        weights=weights,
        newest_first=newest_first,
        first_of_epoch=first_of_epoch,
        force=force,
    )
    options = WatchOptions(
        tuple(names), Path(runs), source, None if once else every, not no_upload, serve
    )
    ends = []
    with progress_bar.display() as display:
        for end in watch(sampled, options, os.environ, display):
            if not (once and end.disk_full):  # those are named together
                display.say(report.evaluated_line(end, once=once))
            ends.append(end)
    output.report([report.evaluated_summary(ends)], report.evaluated_json(ends), as_json)
    if fault := report.full_disk(ends):
        output.error(fault)
    raise typer.Exit(report.evaluated_exit_code(ends))
