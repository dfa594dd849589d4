import json
from pathlib import Path

import pandas as pd
import pytest


@pytest.mark.slow  # a start of two ranks
def test_unreadable_clips_are_named_and_training_takes_all_its_steps(soractl, tmp_path, clips_csv):
    table = pd.read_csv(clips_csv)
    bad = {}
    for row in (0, 3, 7):
        path = tmp_path / f"bad-{row}.mp4"
        path.write_bytes(Path(table.path[row]).read_bytes()[: 2000 * row])
        table.loc[row, "path"] = bad[row] = str(path)
    table.to_csv(tmp_path / "clips.csv", index=False)
    wanted = ["data.path=clips.csv", "epochs=1", "log.wandb=false", "log.tensorboard=false"]
    soractl("launch", "smoke", *[part for setting in wanted for part in ("--set", setting)])
    run = tmp_path / "runs/001-smoke"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    named = [
        json.loads(line)["path"]
        for file in run.glob("attempts/1/skipped_clips-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert set(named) <= set(bad.values())
    assert len(named) == len(set(named)) == rows[-1]["skipped_clips"] > 0
    assert [row["global_step"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["loss"] is not None for row in rows)
