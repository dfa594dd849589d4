"""The process of one rank: log, process group, exit codes, and the reason where it fails."""

import logging
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from torch.distributed.checkpoint import CheckpointException

from trainer import config
from trainer.atomic_files import write_json
from trainer.distributed.parallel import process_group
from trainer.metrics.sinks import best_effort
from trainer.remedy import remedy_of
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import UserError
from trainer.setup import prepare
from trainer.training import Training


def main(run_path: str) -> None:
    """Train until the stage's epochs are over; what goes wrong is left in the attempt's folder."""
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank}: %(message)s",
        datefmt="%H:%M:%S",
    )
    run = RunDir(Path(run_path))
    attempt = run.attempts()[-1]
    try:
        settings = config.read(attempt.config_json)
        with process_group(settings.trainer) as ranks:
            training = prepare(run, attempt, settings, ranks)
            training.run_to_the_end()
    except (Exception, CheckpointException) as error:  # torch's is no Exception
        with best_effort("why this rank failed"):
            _write_rank_failure(attempt, rank, error)
        if isinstance(error, UserError):
            sys.exit(f"error: {error}")
        raise
    if training.signal:
        if ranks.is_first:
            with best_effort("the signal at which training ended"):
                _note_stop(attempt, training)
        sys.exit(128 + training.signal)


def _note_stop(attempt: AttemptDir, training: Training) -> None:
    write_json(
        attempt.stopped,
        {
            "signal": signal.Signals(training.signal).name,
            "global_step": training.position.global_step,
            "time_unix_s": time.time(),
        },
    )


def _write_rank_failure(attempt: AttemptDir, rank: int, error: BaseException) -> None:
    """Record the error that ends this rank, and its remedy, for the launcher to show."""
    is_user_error, remedy = isinstance(error, UserError), remedy_of(error)
    write_json(
        attempt.rank_failure(rank),
        {
            "rank": rank,
            "node": socket.gethostname(),
            "error": str(error) if is_user_error else f"{type(error).__name__}: {error}",
            "remedy": remedy.as_json() if remedy else None,
            "traceback": None if is_user_error else traceback.format_exc(),
            "time_unix_s": time.time(),
        },
    )
