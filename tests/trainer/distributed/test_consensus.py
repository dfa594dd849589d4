import os
import signal

from tests.trainer import ranks
from trainer.distributed.consensus import SAVE, StopSaveConsensus


def wish_until_it_is_agreed(group):
    agreement, agreed = StopSaveConsensus(60), []
    for _ in range(8):
        agreed.append(agreement.after_step())
        is_due = SAVE not in agreed[-3:]
        if group.is_first and is_due:
            agreement.request_save()
    assert agreed == [0, 0, SAVE, 0, 0, 0, 0, SAVE]


def test_a_save_that_is_requested_until_it_comes_is_made_once():
    ranks.run(2, wish_until_it_is_agreed)


def leave_at_a_signal(group):
    agreement = StopSaveConsensus(60)
    agreement.after_step()
    if not group.is_first:
        os.kill(os.getpid(), signal.SIGUSR1)
    agreement.request_save()
    assert [agreement.after_step() for _ in range(3)] == [0, signal.SIGUSR1, signal.SIGUSR1]


def test_a_signal_on_one_rank_reaches_all_and_outweighs_a_save():
    ranks.run(2, leave_at_a_signal)
