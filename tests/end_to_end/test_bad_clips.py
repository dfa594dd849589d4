import json
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from tests.end_to_end.forked import Trainer


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


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
    bad = {row: tmp_path / f"bad-{row}.mp4" for row in (0, 1, 3, 7, 8)}
    for row in (0, 3, 7):
        bad[row].write_bytes(Path(table.path[row]).read_bytes()[: 2000 * row])
    write_sound(bad[1])
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
    assert all(row["loss"] is not None for row in rows)
