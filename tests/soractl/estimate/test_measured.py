import os

import pytest

from soractl.estimate import measured, rehearsals
from soractl.estimate.rates import GPUS
from soractl.estimate.stage import estimate
from tests.soractl.estimate.measuring import NAME, config, rehearsal
from trainer.atomic_files import write_json
from trainer.run_dir import create_run
from trainer.settings import dump


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
