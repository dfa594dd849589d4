import pytest

from tests.night.quiet import QuietStand, be_quiet


@pytest.mark.ssh
@pytest.mark.slow  # two starts of two ranks, and half a minute of training
def test_a_healthy_run_with_saves_validation_epochs_and_a_resume_is_left_alone(tmp_path):
    with QuietStand(tmp_path, nodes=2) as stand:
        assert be_quiet(stand, 30.0) == []
    assert len(stand.run.attempts()) == 2
    assert stand.run.checkpoints()[-1].manifest.epoch > 0
