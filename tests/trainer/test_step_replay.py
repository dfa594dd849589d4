from trainer.step_replay import replay

QUESTION = {"arch": "STDiT3-smoke", "device": "cpu", "times": 2}


def test_a_step_has_the_same_bits_each_time():
    first, second = replay(QUESTION), replay(QUESTION)
    assert first["digest"] == second["digest"]
    assert len(first["digest"]) == 16  # two digests would show that it disagrees with itself


def test_another_gradient_is_another_digest(monkeypatch):
    before = replay(QUESTION)["digest"]
    monkeypatch.setattr("trainer.step_replay.TOKENS", 31)
    assert replay(QUESTION)["digest"] != before
