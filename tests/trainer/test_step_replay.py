import json
import subprocess
import sys

import pytest

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


@pytest.mark.gpu
def test_a_gpu_has_the_same_bits_each_time():
    question = {"arch": "STDiT3-XL/2", "device": "cuda:0", "times": 3}
    program = [sys.executable, "-m", "trainer.step_replay"]  # which chooses kernels for it
    done = subprocess.run(program, input=json.dumps(question), capture_output=True, text=True)
    assert len(json.loads(done.stdout)["digest"]) == 16
