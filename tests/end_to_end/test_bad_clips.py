import itertools
import json
import math
import os
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from tests.end_to_end.forked import Trainer
from tests.soractl.data.odd_files import write_audio
from trainer import rank_process
from trainer.data import loader
from trainer.data.clip_workers import read_here
from trainer.model.pretrained import read_tensors

WHOLE_BATCH = (22, 28, 35)  # rows that are rank 1's second micro batch


def write_one_frame(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((144, 256, 3), 99, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.slow  # two starts of two ranks
def test_unreadable_clips_are_named_and_training_takes_all_its_steps(tmp_path, clips_csv):
    table = pd.read_csv(clips_csv)
    bad = {row: tmp_path / f"bad-{row}.mp4" for row in (0, 1, 3, 7, 8, *WHOLE_BATCH)}
    for row, size in {0: 0, 3: 6000, 7: 14000, **dict.fromkeys(WHOLE_BATCH, 2000)}.items():
        bad[row].write_bytes(Path(table.path[row]).read_bytes()[:size])
    write_audio(bad[1])
    write_one_frame(bad[8])
    for row, path in bad.items():
        table.loc[row, "path"] = str(path)
    table.to_csv(tmp_path / "clips.csv", index=False)
    trainer = Trainer(tmp_path, clips_csv, "epochs=1", "buckets.batch_size={144p=[1,3],240p=[1,1]}")
    healthy, attempt = trainer.launch(), trainer.launch(f"data.path={tmp_path / 'clips.csv'}")
    assert healthy.end() == attempt.end() == [0, 0]
    rows, steps = (
        [json.loads(line) for line in each.run.metrics.read_text().splitlines()]
        for each in (attempt, healthy)
    )
    named = [
        json.loads(line)["path"]
        for file in attempt.dir.path.glob("skipped_clips-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert set(named) <= set(map(str, bad.values()))
    assert len(named) == len(set(named)) == rows[-1]["skipped_clips"] > 0
    assert len(rows) == len(steps)
    assert [row["global_step"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["loss"] is not None and row["avg_loss"] is not None for row in rows)
    of_rank_1 = attempt.dir.skipped_clips(1).read_text().splitlines()
    assert {json.loads(line)["row"] for line in of_rank_1} >= set(WHOLE_BATCH)
    clips = [
        [round(row["clips_per_s"] * row["s_per_step"]) for row in run] for run in (rows, steps)
    ]
    assert (clips[0][1], clips[1][1]) == (3, 6)


def train_on_nan(run_path):
    """Rank 1 reads a clip of its second step as NaN, which no decoder gives."""
    numbers = itertools.count()

    def read(task):
        answer = read_here(task)
        return answer._replace(clip=answer.clip * math.nan) if next(numbers) == 1 else answer

    if os.environ["RANK"] == "1":
        loader.read_here = read
    rank_process.main(run_path)


@pytest.mark.slow  # a start of two ranks
def test_a_clip_of_nan_on_one_rank_costs_both_one_step_and_no_weight(tmp_path, clips_csv):
    trainer = Trainer(tmp_path, clips_csv, "trainer.max_steps=4", program=train_on_nan)
    attempt = trainer.launch()
    assert attempt.end() == [0, 0]
    rows = [json.loads(line) for line in attempt.run.metrics.read_text().splitlines()]
    found = [(row["global_step"], row["skipped_steps"]) for row in rows]
    assert found == [(1, 0), (2, 1), (3, 1), (4, 1)]
    assert all(row["avg_loss"] > 0 for row in rows)
    saved = attempt.run.checkpoints()[-1]
    assert (saved.manifest.global_step, saved.manifest.skipped_steps) == (4, 1)
    for folder in (saved.model, saved.ema):
        assert all(tensor.isfinite().all() for _, tensor in read_tensors(folder))
