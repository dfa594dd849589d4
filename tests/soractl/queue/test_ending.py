import pytest

from soractl.queue.ending import Ending, Next, what_follows


@pytest.mark.parametrize(
    ("ending", "requeue", "reason"),
    [
        (Ending(outcome="ended well", warned=True), False, "it has ended"),
        (
            Ending(outcome="stopped", warned=True),
            True,
            "a time limit or a preemption was announced",
        ),
        (Ending(outcome="stopped", warned=True, terminated=True), False, "the queue ends the job"),
        (
            Ending(outcome="stopped", terminated=True, at_limit=True),
            True,
            "its time limit was reached",
        ),
        (Ending(outcome="ended well", terminated=True, at_limit=True), False, "it has ended"),
        (Ending(outcome="stopped"), True, "its step was ended from outside"),
        (
            Ending(outcome="stopped", warned=True, asked_to_stop=True),
            False,
            "it was stopped on request",
        ),
        (Ending(outcome="stopped", terminated=True), False, "the queue ends the job"),
        (Ending(outcome="failed", warned=True), False, "it failed"),
        (
            Ending(outcome="stopped", warned=True, without_checkpoint=2),
            True,
            "a time limit or a preemption was announced",
        ),
    ],
)
def test_how_it_ended_decides_and_not_the_signal(ending, requeue, reason):
    assert what_follows(ending) == Next(requeue=requeue, reason=reason)


def test_a_job_whose_limit_is_too_short_for_a_save_gives_up():
    assert what_follows(Ending(outcome="stopped", warned=True, without_checkpoint=3)) == Next(
        requeue=False,
        reason="3 attempts in a row ended without a new checkpoint",
        gave_up=True,
    )
