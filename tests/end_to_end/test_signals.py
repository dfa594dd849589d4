import os
import signal

import pytest

from tests.end_to_end.forked import Trainer, losses
from trainer.atomic_files import read_json


@pytest.mark.slow  # five starts of the trainer
def test_a_signal_to_any_rank_makes_all_save_and_leave_and_a_resume_goes_on_at_that_step(
    tmp_path, clips_csv
):
    trainer = Trainer(tmp_path, clips_csv, "epochs=2", "checkpoint.every_steps=0")
    attempt = trainer.launch()
    for number, rank in ((signal.SIGTERM, 1), (signal.SIGUSR1, 0)):
        attempt.wait_for_a_step()
        os.kill(attempt.pids[rank], number)
        assert attempt.end() == [128 + number, 128 + number]
        stopped = read_json(attempt.dir.stopped)
        assert stopped["signal"] == signal.Signals(number).name
        newest = attempt.run.checkpoints()[-1]
        assert newest.manifest.global_step == stopped["global_step"] == max(losses(attempt.run))
        attempt = trainer.resume()
        assert attempt.start == newest.path
    attempt.wait_for_a_step()
    assert list(attempt.dir.path.glob("superseded_*")) == []
    for pid in attempt.pids:  # as torchrun does: all ranks hear it
        os.kill(pid, signal.SIGTERM)
    assert attempt.end() == [143, 143]
    found = losses(attempt.run)
    assert list(found) == list(range(1, len(found) + 1))
    whole = trainer.launch(f"trainer.max_steps={len(found)}")
    assert whole.end() == [0, 0]
    assert losses(whole.run) == found
