import os
from dataclasses import replace

import pytest

from soractl.estimate import measured, rehearsals
from soractl.estimate.rates import GPUS, NETWORKS
from soractl.estimate.speeds import Speeds
from soractl.estimate.stage import estimate
from trainer.atomic_files import write_json
from trainer.config import load_stage
from trainer.data.buckets import Bucket
from trainer.run_dir import create_run
from trainer.settings import dump

XL = NETWORKS["STDiT3-XL/2"]
NAME = "360p/51/0.56"
BUCKET = Bucket("360p", 51, "0.56", 360, 640, 8)
OTHER = Bucket("144p", 51, "0.56", 144, 256, 51)


def config(*overrides):
    return load_stage("stage1", overrides).config


def rehearsal(settings, **changes):
    row = rehearsals.Bucket(
        name=NAME, batch_size=8, seconds=4.0, encode_s=1.5, peak_bytes=70_000_000_000
    )
    found = rehearsals.Rehearsal(
        stage="stage1",
        created_unix_s=1_796_000_000.0,
        commit=None,
        nodes=("n1",),
        world_size=8,
        gpu="NVIDIA H200",
        buckets=(row, rehearsals.Bucket(name="720p/51/0.56", batch_size=2, fault="no memory")),
        reduced_bytes_per_s=None,
        checkpoint_s=None,
        checkpoint_stall_s=None,
        checkpoint_bytes=None,
        checkpoint_fault=None,
        settings=dump(settings),
    )
    return replace(found, **changes)


def test_a_rehearsal_is_read_as_it_was_written(tmp_path):
    written = rehearsal(config())
    rehearsals.write(tmp_path, written)
    assert rehearsals.read(tmp_path, "stage1").buckets == written.buckets
    assert rehearsals.read(tmp_path, "stage2") is None


def test_a_damaged_rehearsal_is_none(tmp_path):
    file = rehearsals.file_of(tmp_path, "stage1")
    file.parent.mkdir()
    file.write_text("{")
    assert rehearsals.read(tmp_path, "stage1") is None


@pytest.mark.parametrize(
    ("changed", "fits"),
    [
        ((), True),
        (("optim.lr=1e-5",), True),
        (("model.tokens_at_once=9000",), False),
        (("data.features=f",), False),
    ],
)
def test_what_other_settings_took_is_not_taken_over(tmp_path, changed, fits):
    rehearsals.write(tmp_path, rehearsal(config()))
    assert (measured.find(tmp_path, "stage1", config(*changed)) is not None) == fits


def test_the_newest_of_runs_and_rehearsals_counts(tmp_path):
    rehearsals.write(tmp_path, rehearsal(config()))
    run = create_run(tmp_path, "stage1")
    write_json(run.config_json, dump(config()))
    write_json(run.bucket_seconds, {NAME: {"seconds": 3.0, "micro_batches": 9}})
    os.utime(run.bucket_seconds, (1_795_000_000, 1_795_000_000))
    found = measured.find(tmp_path, "stage1", config())
    assert found.source.startswith("rehearsal of 20")
    os.utime(run.bucket_seconds, (1_797_000_000, 1_797_000_000))
    found = measured.find(tmp_path, "stage1", config())
    assert (found.source, found.seconds) == ("run 001-stage1", {NAME: 3.0})


def test_measured_seconds_are_split_and_rates_are_scaled_by_them(tmp_path):
    rehearsals.write(tmp_path, rehearsal(config()))
    found = measured.find(tmp_path, "stage1", config())
    speeds = Speeds.of([BUCKET, OTHER], XL, GPUS["h200"], found)
    assert (speeds.model_s(BUCKET), speeds.encoders_s(BUCKET)) == (2.5, 1.5)
    rates = Speeds(XL, GPUS["h200"], None)
    assert speeds.factor == pytest.approx(2.5 / rates.model_s(BUCKET))
    assert speeds.model_s(OTHER) == pytest.approx(speeds.factor * rates.model_s(OTHER))
    upright = replace(BUCKET, ratio="1.78", height=640, width=360)
    assert speeds.model_s(upright) == 2.5  # as the one of its resolution and length
    assert [speeds.is_measured(one) for one in (BUCKET, upright, OTHER)] == [True, True, False]


def test_an_estimate_says_which_seconds_were_measured(tmp_path):
    rows = [f"{number}.mp4,a cat,60,720,1280" for number in range(4000)]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["path,text,num_frames,height,width", *rows]) + "\n")
    rehearsals.write(tmp_path, rehearsal(config()))
    found = estimate("stage1", table, 2, GPUS["h100"], runs=tmp_path)
    by_name = {row.name: row for row in found.rows}
    own = by_name["360p/51"]
    assert (own.model_s, own.measured, own.memory) == (2.5, True, 70_000_000_000)
    assert not by_name["240p/51"].measured
    assert found.source.endswith("8 ranks on NVIDIA H200")
    assert estimate("stage1", table, 2, GPUS["h100"]).source is None
