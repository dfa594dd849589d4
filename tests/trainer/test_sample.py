import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.making import make_manifest
from tests.trainer.checkpoints.test_integrity import flipped
from tests.trainer.distributed.test_node_group import files_opened
from trainer import sample
from trainer.atomic_files import describe_file, write_json
from trainer.checkpoints.checkpoint import INDEX
from trainer.config import load_stage
from trainer.model import build as networks
from trainer.run_dir import create_run
from trainer.sampling.prompts import parse_prompt
from trainer.sampling.sampler import Preset, Sampler
from trainer.settings import ConfigError, dump

SMALL = Preset(frames=34, height=32, width=48, fps=24)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights of the smoke networks, as training leaves them."""
    settings = load_stage("smoke", ["flow.sampling_steps=2", "trainer.dtype=fp32"]).config
    run = create_run(tmp_path_factory.mktemp("runs"), "smoke")
    write_json(run.config_json, dump(settings))
    model = networks.build_model(settings)
    draft = run.draft_path(0, 1)
    for name in ("model", "ema"):
        (draft / name).mkdir(parents=True)
        save_file(model.state_dict(), draft / name / "weights.safetensors")
        index = {"weight_map": dict.fromkeys(model.state_dict(), "weights.safetensors")}
        (draft / name / INDEX).write_text(json.dumps(index))
    files = {
        f"{name}/{file}": describe_file(draft / name / file)
        for name in ("model", "ema")
        for file in ("weights.safetensors", INDEX)
    }
    return run.publish(draft, make_manifest(1, files=files))


@pytest.fixture(scope="module")
def sampler(checkpoint):
    return Sampler(checkpoint, "ema", torch.device("cpu"))


def test_the_seed_and_the_text_make_the_video(sampler):
    first = sampler.sample(parse_prompt("a cat"), SMALL, 1)
    assert first.shape == (34, 32, 48, 3)
    assert torch.equal(sampler.sample(parse_prompt("a cat"), SMALL, 1), first)
    assert not torch.equal(sampler.sample(parse_prompt("a cat"), SMALL, 2), first)
    assert not torch.equal(sampler.sample(parse_prompt("a dog"), SMALL, 1), first)


def test_frames_come_from_a_reference_where_the_mask_strategy_says(sampler, tmp_path, write_video):
    path = Path(write_video(tmp_path / "clip.mp4", 20))

    def of(text, strategy):
        return sampler.sample(
            parse_prompt(text, references=[path], mask_strategy=strategy), SMALL, 1
        )

    cat, dog = of("a cat", "0,0,0,0,5"), of("a dog", "0,0,0,0,5")
    assert torch.equal(cat[:17], dog[:17])
    assert not torch.equal(cat[17:], dog[17:])
    at_the_end = of("a cat", "0,0,0,5,5")
    assert torch.equal(at_the_end[17:], cat[:17])
    edited = of("a cat", "0,0,0,0,5,0.6")
    assert not torch.equal(edited[:17], cat[:17])


def test_a_loop_begins_where_the_one_before_it_ended(sampler):
    text = "|0|a cat|1|a dog"
    alone = sampler.sample(parse_prompt(text), SMALL, 1)
    both = sampler.sample(parse_prompt(text), Preset(34, 32, 48, 24, loops=2), 1)
    assert both.shape == (34 + 17, 32, 48, 3)
    assert torch.equal(both[:34], alone)
    other = sampler.sample(parse_prompt("a cat"), Preset(34, 32, 48, 24, loops=2), 1)
    assert torch.equal(other[:34], alone)
    assert not torch.equal(other[34:], both[34:])


def test_a_prompt_is_not_changed_by_being_sampled(sampler, tmp_path, write_video):
    path = Path(write_video(tmp_path / "clip.mp4", 17))
    prompt = parse_prompt("a cat", references=[path], mask_strategy="0")
    twice = Preset(34, 32, 48, 24, loops=2)
    assert torch.equal(sampler.sample(prompt, twice, 1), sampler.sample(prompt, twice, 1))


def test_a_mask_strategy_for_something_that_does_not_exist_is_refused(sampler):
    with pytest.raises(ConfigError) as caught:
        sampler.sample(parse_prompt("a cat", mask_strategy="0,2"), SMALL, 1)
    message = "a mask strategy names reference 2; there are 0, counted from 0"
    assert str(caught.value) == f"prompt 'a cat': {message}"


def test_the_command_writes_a_video_of_every_prompt(checkpoint, tmp_path, write_video):
    clip = write_video(tmp_path / "clip.mp4", 17)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f'a cat\na dog {{"reference_path": "{clip}", "mask_strategy": "0"}}\n')
    options = ["--frames", "17", "--resolution", "144p", "--out", str(tmp_path / "out")]
    sample.main([str(checkpoint.path), "--prompts", str(prompts), *options])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["sample_0000.mp4", "sample_0001.mp4"]
    sample.main([str(checkpoint.path), "--prompt", "a cat", *options, "--frames", "1"])
    assert (tmp_path / "out" / "sample_0000.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to sample; give --prompt TEXT or --prompts FILE"),
        (["--prompt", "a", "--loops", "0"], "--loops 0; expected at least 1"),
        (["--prompt", "a", "--fps", "0"], "--fps 0; expected at least 1"),
        (["--prompt", "a", "--fps", "-3"], "--fps -3; expected at least 1"),
        (
            ["--prompt", "a", "--loops", "2", "--frames", "51", "--mask-strategy", "x"],
            "prompt 'a': mask strategy 'x': expected up to 6 numbers",
        ),
        (
            ["--prompt", "a", "--loops", "2", "--frames", "17"],
            "give `--frames` a multiple of 17, and at least 34",
        ),
        (
            ["--prompt", "a", "--reference", "none.mp4", "--mask-strategy", "0"],
            "reference none.mp4 cannot be read: No such file or directory",
        ),
        (["--prompt", "a", "--reference", "x.png"], "no mask strategy that says where they go"),
        (["--prompts", "none.txt"], "none.txt cannot be read"),
        (["--prompt", "a", "--resolution", "1p"], "1p"),
    ],
)
def test_a_users_mistake_is_one_sentence(checkpoint, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        sample.main([str(checkpoint.path), *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("/nope", "no complete checkpoint in /nope"),
        ("nope", "no complete checkpoint in nope, runs/nope"),
        ("epoch0-global_step1", "epoch0-global_step1 is no complete checkpoint: no "),
    ],
)
def test_nothing_to_sample_from_is_said_once_with_soractls_exit_code(capsys, checkpoint, message):
    with pytest.raises(SystemExit) as caught:
        sample.main([checkpoint, "--prompt", "a cat"])
    assert caught.value.code == 6
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count(checkpoint) == message.count(checkpoint)


def test_a_checkpoint_is_kept_while_it_is_read_and_nothing_is_made_of_a_damaged_one(
    checkpoint, tmp_path, capsys
):
    arguments = [str(checkpoint.path), "--prompt", "a cat", "--frames", "1", "--out", str(tmp_path)]
    with files_opened(checkpoint.path) as opened:
        sample.main([*arguments, "--resolution", "144p"])
    assert len([name for name in opened if name.startswith(".read-by-")]) == 1
    assert checkpoint.readers() == []
    file = checkpoint.ema / "weights.safetensors"
    with flipped(file), pytest.raises(SystemExit) as caught:
        sample.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {file} is damaged: ")
