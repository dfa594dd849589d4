import json

import pytest

from soractl.checkpoints.adopt import adopt, plan
from soractl.errors import SoractlError
from soractl.remote.requests import NodeResult
from trainer.atomic_files import read_json
from trainer.config import load_stage
from trainer.settings import dump

FOUND = {"epoch": 0, "step": 9, "global_step": 300, "loaded": {"model": 5, "ema": 5}}


@pytest.fixture
def folder(tmp_path):
    """What the reference leaves, as far as soractl looks at it."""
    path = tmp_path / "epoch0-global_step300"
    (path / "model").mkdir(parents=True)
    (path / "running_states.json").write_text("{}")
    return path


def trainer_that_prints(stdout="", stderr="", exit_code=0):
    """A Remote that stands for the trainer's program, and the requests that it got."""
    requests = []

    def remote(node, request, deadline_s):
        requests.append(request)
        return NodeResult(node, stdout, stderr, exit_code)

    remote.requests = requests
    return remote


FITS = f"a notice of a library\n{json.dumps(FOUND)}\n"


def test_a_plan_makes_nothing_and_an_adoption_makes_a_run_that_says_where_it_comes_from(
    tmp_path, folder
):
    remote = trainer_that_prints(FITS)
    planned = plan(folder, "smoke", tmp_path / "runs", remote)
    assert (planned.found, planned.run.name, planned.is_done) == (FOUND, "001-smoke", False)
    assert not (tmp_path / "runs").exists()
    done = adopt(planned, remote)
    assert [request.argv[2:] for request in remote.requests] == [
        ("trainer.adopt", str(folder)),
        ("trainer.adopt", str(folder), str(done.run.path)),
    ]
    settings = dump(load_stage("smoke").config)
    assert [json.loads(request.stdin) for request in remote.requests] == [
        json.loads(json.dumps(settings))
    ] * 2
    values = read_json(done.run.run_json)
    assert (values["stage"], values["start"], done.is_done) == (
        "smoke",
        {"kind": "adopted", "path": str(folder)},
        True,
    )


@pytest.mark.parametrize(
    ("stderr", "message", "code"),
    [
        ("error: ema.pt does not fit\n", "ema.pt does not fit", 2),
        ("Killed\n", "Killed", 1),
        (
            "ModuleNotFoundError: No module named 'torch'\n",
            "ModuleNotFoundError: No module named 'torch'; this needs the trainer's environment: "
            "`make install`",
            1,
        ),
    ],
)
def test_a_trainer_that_refuses_leaves_no_run(tmp_path, folder, stderr, message, code):
    planned = plan(folder, "smoke", tmp_path / "runs", trainer_that_prints(FITS))
    with pytest.raises(SoractlError) as refused:
        adopt(planned, trainer_that_prints(stderr=stderr, exit_code=1))
    assert (refused.value.message, refused.value.exit_code) == (message, code)
    assert list((tmp_path / "runs").glob("*-*")) == []


@pytest.mark.parametrize("missing", ["model", "running_states.json"])
def test_a_folder_that_the_reference_did_not_write_is_refused_before_the_trainer_starts(
    tmp_path, folder, missing
):
    (folder / missing).rename(tmp_path / "away")
    remote = trainer_that_prints(FITS)
    with pytest.raises(SoractlError) as refused:
        plan(folder, "smoke", tmp_path / "runs", remote)
    assert refused.value.message == (
        f"{folder} is no checkpoint of the reference: {missing} is not there"
    )
    assert remote.requests == []
