import logging
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.forked import Trainer, losses
from trainer import rank_process
from trainer.atomic_files import read_json


def train_with_a_log(run_path):
    """The trainer, whose errors go to a file that is not on the run's disk."""
    handler = logging.FileHandler(Path(run_path).parents[1] / f"errors-{os.environ['RANK']}")
    handler.setLevel(logging.ERROR)
    logging.getLogger("trainer").addHandler(handler)
    rank_process.main(run_path)


def fill(path):
    with suppress(OSError), path.open("ab", 0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.slow  # a start of the trainer
def test_a_run_that_is_stopped_on_a_full_disk_has_its_note_of_that(small_disk, clips_csv):
    disk = small_disk("40M")
    attempt = Trainer(disk, clips_csv, "epochs=1000").launch()
    attempt.wait_for_a_step()
    fill(disk / "filler")
    os.kill(attempt.pids[0], signal.SIGTERM)
    assert attempt.end() == [143, 143]
    assert read_json(attempt.dir.stopped)["signal"] == "SIGTERM"


@pytest.mark.slow  # a start of the trainer
def test_on_a_full_disk_saves_are_given_up_and_training_goes_on_until_there_is_room_again(
    small_disk, tmp_path, clips_csv
):
    disk, errors = small_disk("40M"), tmp_path / "errors-0"
    settings = ("epochs=1000", "checkpoint.every_steps=1", "checkpoint.keep_last=1")
    attempt = Trainer(disk, clips_csv, *settings, program=train_with_a_log).launch()
    run = attempt.run
    attempt.wait_for(run.checkpoints)
    given_up = r"checkpoint (epoch\d+-global_step\d+) given up, training goes on: .*No space left"
    no_beat = "the heartbeat cannot be written, training goes on: "

    def is_noticed():
        fill(disk / "filler")  # a draft that was given up has made room again
        log = errors.read_text()
        return len(set(re.findall(given_up, log))) >= 3 and no_beat in log

    attempt.wait_for(is_noticed)
    before = run.checkpoints()[-1].manifest.global_step
    (disk / "filler").unlink()
    attempt.wait_for(  # the last one may just be replaced
        lambda: any(found.manifest.global_step > before + 2 for found in run.checkpoints())
    )
    os.kill(attempt.pids[0], signal.SIGTERM)
    assert attempt.end() == [143, 143]
    [last] = run.checkpoints()
    assert list(run.checkpoints_folder.iterdir()) == [last.path]
    assert max(losses(run)) == last.manifest.global_step
