"""`python -m trainer.upload RUN`: what was evaluated after a training's end goes to W&B.

While an attempt runs, its rank 0 sends the videos. The answer is one JSON object on stdout:
`{"sent": videos}`, or `{"sent": 0, "why": reason, "again": bool}` where there is nothing to do, for
now or for ever.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from trainer import config, packages
from trainer.run_dir import RunDir
from trainer.settings import UserError, dump

with packages.needed():
    from trainer.metrics.sinks import WandbSink
    from trainer.metrics.wandb_videos import unsent, upload_lock


def main(arguments: list[str] | None = None) -> None:
    """Send what is left, say how much it was."""
    parser = argparse.ArgumentParser(prog="python -m trainer.upload", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    given = parser.parse_args(arguments)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # what W&B and its processes print is no answer
        try:
            answer = send_rest(RunDir(given.run.expanduser()))
        except (UserError, OSError) as error:
            sys.exit(f"error: {error}")
        answers.write(f"{json.dumps(answer)}\n")


def send_rest(run: RunDir) -> dict[str, Any]:
    """Send every video that W&B does not have, in a session of the run's own W&B run."""
    settings = config.read(run.config_json)
    if not settings.log.wandb:
        return _nothing("the run does not log to W&B")
    if (attempts := run.attempts()) and not attempts[-1].exit.exists():
        return _nothing("the training runs, and sends them itself", again=True)
    if (lock := upload_lock(run)) is None:
        return _nothing("another program sends them", again=True)
    with lock:
        left = unsent(run)
        if not left:
            return _nothing("all are there")
        _send(run, settings, lock)
        return {"sent": len(left - unsent(run))}


def _send(run: RunDir, settings: config.TrainConfig, lock: IO[bytes]) -> None:
    import wandb

    try:
        sink = WandbSink(run, settings.log.wandb_project, dump(settings), lock=lock)
        sink.close(timeout_s=None)
    except wandb.Error as error:
        raise UserError(f"W&B cannot be reached: {error}") from None


def _nothing(why: str, *, again: bool = False) -> dict[str, Any]:
    return {"sent": 0, "why": why, "again": again}


if __name__ == "__main__":
    main()
