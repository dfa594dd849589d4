"""`python -m trainer.sample CHECKPOINT --prompt ...`: a checkpoint and prompts become videos.

`--serve` answers requests instead, one JSON object a line on stdin and stdout, and ends with stdin:
`{"plan": [arguments as above]}` gives `{"tasks": [...]}`, each with how many of its kind are best
performed `together`; `{"perform": [task, ...]}` gives `{"step", "steps"}` as it goes and `{"made":
[file, ...], "seconds": [...], "loading_s"}`; `{"contact_sheet": [[file, caption], ...]}` gives
`{"made"}`. What fails gives `{"error", "exit_code"}`, of files with `disk_full`, and the next
follows.
"""

import argparse
import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer import packages
from trainer.atomic_files import is_disk_full
from trainer.run_dir import run_of
from trainer.settings import ConfigError, UserError

with packages.needed():
    from trainer.sampling.films import CONTACT_SHEET, write_contact_sheet
    from trainer.sampling.job import Choices, NoCheckpoint, Task, Worker, find_checkpoint
    from trainer.sampling.prompt_files import Entry, read_entries
    from trainer.sampling.prompts import Scores

log = logging.getLogger("trainer")

_LOOK_S = 0.5
_OF_PLANS = ("done", "together")  # what an answer to `plan` adds to a task


def main(arguments: list[str] | None = None) -> None:
    """Parse, sample every prompt, say where the videos are; or serve."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--serve"]:
        return _serve()
    options = _options(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        _sample(*_plan(options))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(_exit_code(error)) from None


def _sample(worker: Worker, planned: list[tuple[Task, int]]) -> None:
    tasks = [task for task, _ in planned]
    checkpoint = Path(tasks[0].checkpoint)
    log.info("%s/%s, %s weights", run_of(checkpoint).name, checkpoint.name, tasks[0].weights)
    for task in tasks:
        if not task.is_done():
            worker.perform([task])
        log.info("%s", task.file)


def _serve() -> None:
    """Answer requests until stdin ends, or whoever asks is gone."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    worker = Worker()
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer

    def answer(values: dict[str, Any]) -> None:
        answers.write(f"{json.dumps(values)}\n")
        answers.flush()

    for line in sys.stdin:
        try:
            answer(_answered(json.loads(line), worker, answer))
        except UserError as error:
            answer({"error": str(error), "exit_code": _exit_code(error)})
        except OSError as error:  # a full disk, a checkpoint that was removed just now
            where = f": {error.filename}" if error.filename else ""
            reason = f"{error.strerror or error}{where}"
            answer({"error": reason, "exit_code": 1, "disk_full": is_disk_full(error)})


def _end_with(parent: int) -> None:
    """End in the middle of a video once the parent has: another may sample it again by then."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _answered(request: dict[str, Any], worker: Worker, answer: Any) -> dict[str, Any]:
    match request:
        case {"plan": arguments}:
            planned = _plan(_options(arguments), worker)[1]
            return {
                "tasks": [
                    {**asdict(task), "done": task.is_done(), "together": together}
                    for task, together in planned
                ]
            }
        case {"perform": [*values]}:
            tasks = [
                Task.of({key: value for key, value in one.items() if key not in _OF_PLANS})
                for one in values
            ]
            loading_s, seconds = worker.perform(
                tasks, lambda step, steps: answer({"step": step, "steps": steps})
            )
            made = [task.file for task in tasks]
            return {"made": made, "seconds": seconds, "loading_s": loading_s}
        case {"contact_sheet": films}:
            path = Path(films[0][0]).with_name(CONTACT_SHEET)
            write_contact_sheet([(Path(film), caption) for film, caption in films], path)
            return {"made": str(path)}
    raise ConfigError([f"no such request: {sorted(request)}"])


def _exit_code(error: UserError) -> int:
    return 6 if isinstance(error, NoCheckpoint) else 2


def _plan(
    options: argparse.Namespace, worker: Worker | None = None
) -> tuple[Worker, list[tuple[Task, int]]]:
    entries = [Entry(text) for text in options.prompt]
    entries += read_entries(options.prompts) if options.prompts else []
    if not entries:
        raise ConfigError(["nothing to sample; give --prompt TEXT or --prompts FILE"])
    choices = Choices(
        weights=options.weights,
        frames=options.frames,
        resolution=options.resolution,
        ratio=options.ratio,
        fps=options.fps,
        loops=options.loops,
        seed=options.seed,
        samples=options.num_samples,
        steps=options.steps,
        cfg_scale=options.cfg_scale,
        references=tuple(options.reference),
        mask_strategy=options.mask_strategy,
        scores=Scores(options.aesthetic_score, options.motion_score, options.camera_motion),
    )
    checkpoint = find_checkpoint(options.checkpoint, options.runs)
    worker = worker or Worker()
    return worker, worker.plan(checkpoint, entries, choices, options.out)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer.sample", description=__doc__)
    parser.add_argument("checkpoint", help="a checkpoint folder, a run, or latest")
    parser.add_argument(
        "--prompt", action="append", default=[], help="may be given again; {{ is a brace"
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="one prompt a line; or .toml, .csv"
    )
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a picture or video that --mask-strategy takes frames from; may be given again",
    )
    parser.add_argument(
        "--mask-strategy",
        default="",
        metavar="GROUPS",
        help="loop,reference,reference start,target start,length,edit; groups joined by ';'; "
        "frames are latent ones (5 for 17), edit is 0 (keep) to 1 (make anew)",
    )
    parser.add_argument("--num-samples", type=int, default=1, help="videos of each prompt")
    parser.add_argument("--loops", type=int, default=1, help="parts that continue one another")
    parser.add_argument("--aesthetic-score", type=float, help="for the prompt's end; 6.5")
    parser.add_argument("--motion-score", type=float, help="likewise")
    parser.add_argument("--camera-motion", help="likewise; 'pan left'")
    parser.add_argument("--frames", default="51", help="a number, or 2s, 4s, 8s, 16s")
    parser.add_argument("--resolution", default="240p")
    parser.add_argument("--ratio", default="9:16", help="height:width")
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument("--steps", type=int, help="of the sampler; default: as the run's settings")
    parser.add_argument("--cfg-scale", type=float, help="of the guidance; default: likewise")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--weights", choices=("ema", "model"), default="ema")
    parser.add_argument("--out", type=Path, help="folder; default: samples/ in the run")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs lie")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
