"""The process of one rank: log, process group, exit codes, and the reason where it fails."""

import logging
import os
import re
import signal
import socket
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import CheckpointException

from trainer import config
from trainer.atomic_files import KeptRoom, folder_time
from trainer.checkpoints.saver import Saver
from trainer.distributed.parallel import process_group
from trainer.metrics.sinks import best_effort
from trainer.rehearsal import rehearse
from trainer.remedy import remedy_of
from trainer.run_dir import AttemptDir, RunDir
from trainer.settings import UserError
from trainer.setup import prepare
from trainer.training import Training

_OF_A_COLLECTIVE = re.compile(
    r"gloo|NCCL|[Cc]onnection (closed|reset)|[Tt]imed out (after|waiting)"
)


def main(run_path: str) -> None:
    """Train until the stage's epochs are over, or rehearse.

    What goes wrong is left in the attempt's folder.
    """
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(asctime)s rank {rank}: %(message)s",
        datefmt="%H:%M:%S",
    )
    run = RunDir(Path(run_path))
    attempt = run.attempts()[-1]
    begun: list[Training] = []
    with KeptRoom(attempt.rank_failure(rank)) as account:
        try:
            signal_number = _train(run, attempt, begun)
        except (Exception, CheckpointException) as error:  # torch's is no Exception
            with best_effort("why this rank failed"):
                account.write_json(_failure(rank, error, attempt.path))
            for training in begun:
                _leave_unfinished_save(training.saver, error, _timeout_s(training))
            if isinstance(error, UserError):
                sys.exit(f"error: {error}")
            raise
    if signal_number:
        sys.exit(128 + signal_number)


def _timeout_s(training: Training) -> float:
    return training.train_step.config.trainer.collective_timeout_s


def _leave_unfinished_save(saver: Saver, error: BaseException, timeout_s: float) -> None:
    """End this process where Python would wait for a save that other ranks have left.

    They take part in it until they too fail: for want of this rank, when a collective's time is
    over. An error of a collective says that they have left already.
    """
    is_alone = bool(_OF_A_COLLECTIVE.search(str(error)))
    if not saver.ends_within(0.0 if is_alone else timeout_s):
        traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(1)


def _train(run: RunDir, attempt: AttemptDir, begun: list[Training]) -> int:
    """The signal at which all ranks saved and left, or 0 at the end of the stage."""
    settings = config.read(attempt.config_json)
    with process_group(settings.trainer) as ranks, ExitStack() as held:
        if attempt.rehearsal.exists():
            rehearse(run, attempt, settings, ranks)
            return 0
        note = held.enter_context(KeptRoom(attempt.stopped)) if ranks.is_first else None
        training = prepare(run, attempt, settings, ranks)
        begun.append(training)
        training.run_to_the_end()
        if note and training.signal:
            with best_effort("the signal at which training ended"):
                note.write_json(_stop(training, attempt.path))
    return training.signal


def _stop(training: Training, folder: Path) -> dict[str, Any]:
    return {
        "signal": signal.Signals(training.signal).name,
        "global_step": training.position.global_step,
        "time_unix_s": folder_time(folder),
    }


def _failure(rank: int, error: BaseException, folder: Path) -> dict[str, Any]:
    """The error that ends this rank, and its remedy, for the launcher to show."""
    is_user_error, remedy = isinstance(error, UserError), remedy_of(error)
    return {
        "rank": rank,
        "node": socket.gethostname(),
        "error": str(error) if is_user_error else f"{type(error).__name__}: {error}",
        "remedy": remedy.as_json() if remedy else None,
        "traceback": None if is_user_error else traceback.format_exc(),
        "time_unix_s": folder_time(folder),
        "own_time_unix_s": time.time(),
    }
