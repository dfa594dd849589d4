import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.checkpoint_dir import Checkpoint
from trainer.sampling.prompts import parse_prompt
from trainer.sampling.sampler import Preset, Sampler, Shot
from trainer.settings import ConfigError, UserError

SMALL = Preset(frames=34, height=32, width=48, fps=24)


@pytest.fixture(scope="module")
def sampler(random_checkpoint):
    return Sampler.of(random_checkpoint, "ema", torch.device("cpu"))


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


def test_weights_of_another_model_size_are_one_sentence(sampler, random_checkpoint, tmp_path):
    copy = Checkpoint(tmp_path / random_checkpoint.name, random_checkpoint.manifest)
    shutil.copytree(random_checkpoint.path, copy.path)
    file = copy.ema / "weights.safetensors"
    weights = load_file(file)
    weights["final_layer.linear.bias"] = weights["final_layer.linear.bias"][:3].clone()
    save_file(weights, file)
    with pytest.raises(UserError) as caught:
        sampler.load(copy, "ema")
    assert str(caught.value).startswith(
        f"{copy.ema} holds another model than the run's config.json says: size mismatch for "
        "final_layer.linear.bias"
    )


def test_videos_that_are_sampled_together_are_those_that_are_sampled_alone(
    sampler, tmp_path, write_video
):
    path = Path(write_video(tmp_path / "clip.mp4", 17))
    prompts = [
        parse_prompt("a cat"),
        parse_prompt("a dog that runs", references=[path], mask_strategy="0,0,0,0,5,0.6"),
        parse_prompt("|0|waves|1|a hen"),
    ]
    twice = Preset(34, 32, 48, 24, loops=2)
    shots = [Shot(prompt, 1, number) for number, prompt in enumerate(prompts)]
    steps = []
    videos = sampler.sample_together(shots, twice, lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)] * 2
    for video, shot in zip(videos, shots, strict=True):
        alone = sampler.sample(shot.prompt, twice, 1, number=shot.number)
        assert (video.int() - alone.int()).abs().max() <= 1  # sums of another order
