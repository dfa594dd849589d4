import json

import pytest
from typer.testing import CliRunner

from soractl.cli import app
from soractl.errors import SoractlError
from soractl.evaluation.sample import SampleOptions, _checkpoint
from trainer.run_dir import create_run


def test_options_that_nobody_gave_are_left_to_the_trainer():
    options = SampleOptions("7", ("a cat", "-- a dog"), num_samples=2, reference=("a.png",))
    assert options.arguments() == [
        *("7", "--prompt=a cat", "--prompt=-- a dog", "--reference=a.png"),
        *("--num-samples=2", "--runs=runs"),
    ]


@pytest.mark.slow  # two processes load torch
def test_videos_are_made_once_and_named(random_checkpoint, tmp_path):
    prompts = tmp_path / "prompts.toml"
    prompts.write_text('[[prompt]]\nid = "cat"\ntext = "a cat"\n[[prompt]]\ntext = "a dog"\n')
    size = (
        "--frames",
        "17",
        "--resolution",
        "144p",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "out"),
    )
    command = ["sample", str(random_checkpoint.path), "--prompts", str(prompts), *size, "--json"]

    def sampled():
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    first, again = sampled(), sampled()
    names = [video["file"].rpartition("/")[2] for video in first["videos"]]
    assert names == ["cat.mp4", "sample_0001.mp4"]
    assert all(video["elapsed_s"] > 0 for video in first["videos"])
    assert first["contact_sheets"] == [str(tmp_path / "out" / "contact_sheet.png")]
    assert [video["elapsed_s"] for video in again["videos"]] == [None, None]
    assert json.loads((tmp_path / "out" / "cat.json").read_text())["task"]["text"] == "a cat"


def test_a_run_is_named_as_everywhere(tmp_path):
    run = create_run(tmp_path, "smoke")
    run.run_json.write_text("{}")
    for name in ("1", "001", "001-smoke"):
        assert _checkpoint(SampleOptions(name, runs=str(tmp_path))) == str(run.path)
    for name in ("latest", "runs/9", str(run.path)):
        assert _checkpoint(SampleOptions(name, runs=str(tmp_path))) == name
    with pytest.raises(SoractlError, match="no run 9 in"):
        _checkpoint(SampleOptions("9", runs=str(tmp_path)))


@pytest.mark.slow  # a process loads torch
def test_a_wrong_request_is_one_sentence_with_the_trainers_exit_code(tmp_path):
    for arguments, code, message in (
        (["--prompt", "x"], 6, "no complete checkpoint in"),
        ([], 2, "nothing to sample; give --prompt TEXT or --prompts FILE"),
    ):
        result = CliRunner().invoke(app, ["sample", "latest", "--runs", str(tmp_path), *arguments])
        assert result.exception is not None
        assert (result.exception.exit_code, message in str(result.exception)) == (code, True)
