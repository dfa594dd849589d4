import json
import sys
import textwrap

import pytest

from soractl.cluster.settings import EvalSettings
from soractl.evaluation.outside_metrics import OutsideMetrics
from soractl.evaluation.results import video_of
from soractl.remote.connections import Connections

PROGRAM = """
import json, pathlib, sys
asked = json.load(sys.stdin)
print("loading a network")  # as libraries do
sizes = [pathlib.Path(video["path"]).stat().st_size for video in asked["videos"]]
words = [len(video["prompt"].split()) for video in asked["videos"]]
assert (asked["run"], asked["preset"], asked["global_step"]) == ("001-smoke", "toy", 100)
of_all = {"value": sum(sizes) / 1000, "n": len(sizes)}
print(json.dumps({"metrics": {"words": words, "kB": of_all}}))
"""


@pytest.fixture
def measured(item, film):
    """What comes of a program's answer, for two videos."""

    def measure(code, *, timeout_s=600.0):
        videos = [video_of(film(number)) for number in range(2)]
        command = (sys.executable, "-c", textwrap.dedent(code))
        with Connections() as remote:
            outside = OutsideMetrics(EvalSettings(command=command, timeout_s=timeout_s), remote)
            return outside.measure(item, "ema", videos)

    return measure


def test_a_program_of_its_own_reads_the_videos_and_answers_in_json(measured):
    found = measured(PROGRAM)
    assert [video["measures"]["words"] for video in found.videos] == [2, 2]
    assert all(video["measures"]["motion"] > 0 for video in found.videos)
    assert found.metrics["kB"]["n"] == 2
    assert found.faults == ()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("no", "the last line is no JSON: 'no'"),
        ("", "the last line is no JSON: ''"),
        ("[1]", 'the last line has no {"metrics": {...}}'),
        ({"clip": [1.0]}, "metric clip has 1 values for 2 videos"),
        ({"clip": [1.0, "high"]}, "metric clip has a value that is no number"),
        ({"clip": 3.0}, 'metric clip: expected a list, or {"value", "n"}'),
        ({"clip": [True, 1]}, "metric clip has a value that is no number"),
        ({"clip": [10**400, 1]}, "metric clip has a value that is no number"),
        ({"is": {"value": 10**400}}, 'metric is: expected a list, or {"value", "n"}'),
        ({"is": {"value": 1, "n": None}}, "metric is: n is None; expected a number of videos"),
        ({"is": {"value": 1, "n": "x"}}, "metric is: n is 'x'; expected a number of videos"),
        ({"is": {"value": 1, "n": 0}}, "metric is: n is 0; expected a number of videos"),
        ({"motion": [1, 2]}, "metric motion is one of soractl's own; give it another name"),
        ({"a b": [1, 2]}, "metric 'a b'; expected letters, digits, '_', '.' and '-'"),
    ],
)
def test_a_wrong_answer_is_one_sentence_and_the_videos_count(measured, answer, fault):
    line = answer if isinstance(answer, str) else json.dumps({"metrics": answer})
    found = measured(f"print({line!r})")
    assert found.faults == (f"no outside metrics: {sys.executable}: {fault}",)
    assert len(found.videos) == 2
    assert found.metrics == {}


def test_a_program_that_fails_or_does_not_end_is_one_sentence(measured):
    failed = measured("import sys; sys.exit('error: no CUDA here')")
    assert failed.faults == ("no outside metrics: no CUDA here",)
    late = measured("import time; time.sleep(60)", timeout_s=0.5)
    assert late.faults == ("no outside metrics: deadline: no end within 0.5 s",)


def test_a_frechet_distance_of_few_videos_is_left_out(measured):
    found = measured('print(\'{"metrics": {"fvd": {"value": 3}, "is": {"value": 1}}}\')')
    assert found.metrics == {"is": {"value": 1.0, "n": 2}}
    assert found.faults == ("fvd of 2 videos is left out: it takes 256",)
