import os
import random
import signal
import time
from contextlib import suppress

import pytest

from soractl.checkpoints.verification import broken_files
from tests.end_to_end.forked import Trainer, losses
from trainer.checkpoint_dir import Checkpoint, read_checkpoint

KILLS = 30
WINDOW_S = 0.6  # a few steps, each with its save


@pytest.mark.slow  # 32 starts of two ranks
def test_killed_at_any_moment_training_goes_on_as_if_nothing_had_happened(tmp_path, clips_csv):
    draws = random.Random(0)
    trainer = Trainer(tmp_path, clips_csv, "epochs=9", "checkpoint.keep_last=2")
    attempt = trainer.launch("checkpoint.every_steps=1")
    attempt.wait_for(attempt.run.checkpoints)
    steps, drafts = [0], 0
    for kill in range(KILLS):
        moment = draws.uniform(0, WINDOW_S)
        where = f"kill {kill}, {moment:.3f} s after a step, at step {steps[-1]} or later"
        attempt.wait_for_a_step()
        time.sleep(moment)
        for pid in draws.sample(attempt.pids, 2):
            with suppress(ProcessLookupError):  # it noticed that the other was lost
                os.kill(pid, signal.SIGKILL)
            time.sleep(draws.choice((0, 0.03)))  # the other may go on for a moment
        assert -signal.SIGKILL in attempt.end(), where
        drafts += any(attempt.run.checkpoints_folder.glob(".draft-*"))
        attempt = trainer.resume("latest")
        chosen = read_checkpoint(attempt.start)
        assert isinstance(chosen, Checkpoint), (where, chosen)
        assert broken_files(chosen.path, chosen.manifest.files, lambda _: None) == {}, where
        assert chosen.manifest.global_step >= steps[-1], where
        steps.append(chosen.manifest.global_step)
    assert drafts > 5  # kills that came amid a save
    attempt.wait_for_a_step()
    os.kill(attempt.pids[1], signal.SIGTERM)
    assert attempt.end() == [143, 143]
    found = losses(attempt.run)
    whole = trainer.launch(f"trainer.max_steps={len(found)}", "checkpoint.every_steps=0")
    assert whole.end() == [0, 0]
    assert found == losses(whole.run)
