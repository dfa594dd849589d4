import csv
import dataclasses

import pytest

from soractl.doctor.stage_needs import checkpoints_kept, needs_of, sampled_clips
from soractl.launch.prepare import LaunchOptions, prepare_launch
from trainer.config import load_stage


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text", "num_frames", "height", "width"])
        writer.writerows(rows)
    return path


def test_clips_are_sampled_from_all_over_a_table(tmp_path):
    rows = [[f"clips/{i:05}.mp4", f"a, {i}", 51, 240, 426] for i in range(5000)]
    found = sampled_clips(write_table(tmp_path / "clips.csv", rows), 64)
    numbers = [int(path[6:11]) for path in found]
    assert numbers[0] == 0
    assert (64 <= len(found) <= 66, numbers == sorted(set(numbers)), numbers[-1] > 4900) == (
        True, True, True,
    )  # fmt: skip


def test_lines_of_a_caption_are_no_clips(tmp_path):
    rows = [[f"clips/{i:05}.mp4", "one\ntwo, 2, 3, 4, 5\nthree", 51, 240, 426] for i in range(999)]
    found = sampled_clips(write_table(tmp_path / "clips.csv", rows), 64)
    assert found
    assert all(path.startswith("clips/") and path.endswith(".mp4") for path in found)


def test_a_table_as_parquet_and_one_with_other_names(tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"video": [f"{i}.mp4" for i in range(200)], "caption": "x"})
    table.to_parquet(tmp_path / "clips.parquet")
    found = sampled_clips(tmp_path / "clips.parquet", 64)
    assert (found[0], len(found)) == ("0.mp4", 67)


@pytest.mark.parametrize("text", ["", "name,text\na,b\n", "path\n"])
def test_a_table_without_clips_has_none(tmp_path, text):
    (tmp_path / "clips.csv").write_text(text)
    assert sampled_clips(tmp_path / "clips.csv", 64) == []
    assert sampled_clips(tmp_path / "none.csv", 64) == []


@pytest.mark.parametrize(
    ("last", "every", "steps", "kept"),
    [
        (10, 1000, 5000, 16),  # the newest ten, five for ever, one being written
        (10, 0, 5000, 11),
        (0, 0, 5000, 51),  # all of them
        (10, 0, 300, 4),  # no more than are made
        (10, 1000, None, 11),
    ],
)
def test_room_is_reckoned_for_the_checkpoints_that_are_kept(last, every, steps, kept):
    config = load_stage("stage1").config
    saving = dataclasses.replace(
        config.checkpoint, every_steps=100, keep_last=last, keep_every_steps=every
    )
    assert checkpoints_kept(dataclasses.replace(config, checkpoint=saving), steps) == kept


def test_a_stage_asks_for_its_weights_clips_and_login(workplace):
    found = needs_of(prepare_launch("stage1", LaunchOptions(), {"HOME": "/nowhere"}))
    assert found.question["weights"] == ["hpcai-tech/OpenSora-VAE-v1.2", "DeepFloyd/t5-v1_1-xxl"]
    assert found.question["table"] == str(workplace.folder / "data/OpenVid1M.csv")
    assert found.question["wandb"] == "api.wandb.ai"
    assert found.facts["missing"].endswith("PixArt-Sigma-XL-2-2K-MS.pth does not exist")
    assert found.facts["needed for"] == "11 checkpoints of 21.5 GB need 236 GB"
    offline = needs_of(prepare_launch("stage1", LaunchOptions(), {"WANDB_MODE": "offline"}))
    assert "wandb" not in offline.question


def test_cached_features_need_no_encoder_of_their_kind(workplace):
    (workplace.folder / "features/video-abc").mkdir(parents=True)
    options = LaunchOptions(overrides=("data.features=features",))
    found = needs_of(prepare_launch("stage1", options, {}))
    assert found.question["weights"] == ["DeepFloyd/t5-v1_1-xxl"]
