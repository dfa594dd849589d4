import signal
from types import SimpleNamespace

import pytest

from trainer.config import load_stage
from trainer.data.position import beginning
from trainer.remedy import Remedy, remedy_of
from trainer.training import TooManySkipsError, Training


def standing(steps, *overrides, **values):
    """Training after so many steps of its first epoch, without networks and clips."""
    position = beginning(1)
    for _ in range(steps):
        position = position.after_step(1)
    unused = ("run", "clips", "features", "consensus", "bucket_seconds", "validation", "ledger")
    given = {
        "train_step": SimpleNamespace(config=load_stage("smoke", overrides).config),
        "ranks": SimpleNamespace(is_first=True),
        "log": SimpleNamespace(skips_in_a_row=0),
        "saver": SimpleNamespace(idle_s=0.0, close=lambda: None),
        "position": position,
    }
    return Training(**{**dict.fromkeys(unused), **given, **values})


@pytest.mark.parametrize(
    ("overrides", "steps", "total"),
    [
        (["epochs=3"], 4, 3 * 10),
        (["epochs=3", "optim.accumulate=4"], 0, 3 * 3),
        (["epochs=3", "trainer.max_steps=7"], 4, 7),
    ],
)
def test_a_run_has_the_steps_of_its_epochs_or_as_many_as_are_asked_for(overrides, steps, total):
    plan = SimpleNamespace(steps=10)
    assert standing(steps, "trainer.max_steps=none", *overrides)._total_steps(plan) == total


@pytest.mark.parametrize(
    ("steps", "number", "is_over"),
    [(6, 0, False), (7, 0, True), (0, signal.SIGTERM, True)],
)
def test_training_is_over_at_the_last_step_or_when_all_ranks_agreed_to_leave(
    steps, number, is_over
):
    assert standing(steps, "trainer.max_steps=7", signal=number)._is_over() == is_over


def test_checkpoints_by_steps_are_due_at_every_so_many_and_by_the_clock_they_are_asked_for():
    settings = ["checkpoint.every_steps=5", "checkpoint.every_minutes=1"]
    asked = []
    consensus = SimpleNamespace(request_save=lambda: asked.append("save"))
    due = [
        standing(
            steps, *settings, saver=SimpleNamespace(idle_s=idle_s), consensus=consensus
        )._is_checkpoint_due()
        for steps, idle_s in ((4, 59), (5, 61), (6, 61))
    ]
    assert due == [False, True, False]
    assert asked == ["save", "save"]


def test_after_too_many_skipped_steps_training_ends_with_a_lower_rate_to_try(
    group_of_one, monkeypatch
):
    saved = []
    monkeypatch.setattr(Training, "_save", lambda self: saved.append(self.position.global_step))
    settings = ["guard.most_skips=3", "optim.lr=1e-3"]
    fine = standing(8, *settings, log=SimpleNamespace(skips_in_a_row=2))
    fine._stop_if_all_is_skipped()
    assert saved == []
    diverged = standing(9, *settings, log=SimpleNamespace(skips_in_a_row=3))
    with pytest.raises(TooManySkipsError, match="3 steps in a row were left out") as stopped:
        diverged._stop_if_all_is_skipped()
    assert (saved, remedy_of(stopped.value)) == ([9], Remedy(settings={"optim.lr": 5e-4}))
