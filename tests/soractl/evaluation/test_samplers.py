import sys

import pytest

from soractl.errors import ExitCode, SoractlError
from soractl.evaluation.samplers import Made, Sampler, SamplerEnded, devices, perform
from soractl.remote.local import Conversation

# Answers as the trainer's program does; a task is the name of what happens.
SERVER = """
import json, os, sys
for line in sys.stdin:
    names = [task["text"] for task in json.loads(line)["perform"]]
    if "die" in names:
        sys.exit("RuntimeError: no more")
    if "too large" in names:
        os.kill(os.getpid(), 9)
    for step in (1, 2):
        print(json.dumps({"step": step, "steps": 2}), flush=True)
    made = {"made": names, "seconds": [1.5 / len(names)] * len(names), "loading_s": 0.5}
    wrong = {"error": f"{names} cannot be", "exit_code": 2}
    full = {"error": "no room", "exit_code": 1, "disk_full": True}
    answer = wrong if "wrong" in names else full if "full" in names else made
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def sampler():
    with Conversation((sys.executable, "-c", SERVER)) as program:
        yield Sampler(program)


def task(text, **more):
    return {"text": text, "together": 1, **more}


def test_steps_are_shown_and_the_answer_is_returned(sampler):
    steps = []
    answer = sampler.ask({"perform": [task("cat")]}, lambda *step: steps.append(step))
    assert answer == {"made": ["cat"], "seconds": [1.5], "loading_s": 0.5}
    assert steps == [(1, 2), (2, 2)]


def test_a_request_that_fails_is_an_error_and_the_next_one_works(sampler):
    with pytest.raises(SoractlError, match="wrong'] cannot be") as caught:
        sampler.ask({"perform": [task("wrong")]})
    assert caught.value.exit_code == ExitCode.BAD_REQUEST
    assert sampler.ask({"perform": [task("cat")]})["made"] == ["cat"]


def test_a_process_that_ends_is_an_error_with_its_last_line(sampler):
    with pytest.raises(SamplerEnded, match="the sampling process ended: RuntimeError: no more"):
        sampler.ask({"perform": [task("die")]})


def test_a_process_that_is_killed_has_no_last_line(sampler):
    with pytest.raises(SamplerEnded, match="the sampling process was killed, as the kernel does"):
        sampler.ask({"perform": [task("too large")]})


def test_a_failed_task_is_a_row_and_the_others_are_made(sampler):
    seen = []
    cat, wrong, dog = (task(text) for text in ("cat", "wrong", "dog"))
    made = perform([cat, wrong, dog], [sampler], seen.append, lambda *_: None)
    assert made == [
        Made(cat, 1.5, 0.5),
        Made(wrong, reason="['wrong'] cannot be"),
        Made(dog, 1.5, 0.5),
    ]
    assert seen == made


def test_a_full_disk_is_marked_in_the_end_of_its_task(sampler):
    full, cat = task("full"), task("cat")
    made = perform([full, cat], [sampler], lambda one: None, lambda *_: None)
    assert made == [Made(full, reason="no room", disk_full=True), Made(cat, 1.5, 0.5)]


def test_tasks_that_no_process_is_left_for_are_rows(sampler):
    tasks = [task("die"), task("cat")]
    made = perform(tasks, [sampler], lambda one: None, lambda *_: None)
    assert [one.reason for one in made] == [
        "the sampling process ended: RuntimeError: no more",
        "no sampling process was left",
    ]


def test_tasks_of_one_size_are_made_together_where_that_is_best(sampler):
    small = [task(text, together=2, height=144) for text in ("cat", "dog", "hen")]
    large = [task(text, together=1, height=720) for text in ("cow", "owl")]
    made = perform([*small, *large], [sampler], lambda one: None, lambda *_: None)
    assert [one.seconds for one in made] == [0.75, 0.75, 1.5, 1.5, 1.5]


def test_a_task_that_fails_among_others_costs_itself_alone(sampler):
    tasks = [task(text, together=4) for text in ("cat", "wrong", "dog")]
    made = perform(tasks, [sampler], lambda one: None, lambda *_: None)
    assert [one.reason for one in made] == ["", "['wrong'] cannot be", ""]


@pytest.mark.parametrize(
    ("environ", "gpus", "found"),
    [
        ({}, 0, [None]),
        ({}, 2, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "4, 5"}, 2, ["4", "5"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 2, ["GPU-a", "GPU-b"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, [None]),
    ],
)
def test_a_process_a_visible_gpu_or_one_on_the_cpu(environ, gpus, found):
    assert devices(environ, gpus) == found
