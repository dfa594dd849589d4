import itertools
import json
import os
from pathlib import Path

import pytest
import torch

from tests.end_to_end.forked import Trainer
from tests.trainer.ranks import slices, whole
from trainer import rank_process, setup
from trainer.checkpoints.saver import Saver
from trainer.run_dir import RunDir
from trainer.step import TrainStep


def train_and_take_notes(run_path):
    """The trainer; each rank notes what it trains on, and its state at each save and restore."""
    folder, rank = RunDir(Path(run_path)).attempts()[-1].path, os.environ["RANK"]
    step, save, restore = TrainStep.run, Saver.save, setup.restore

    def noted_step(train_step, batches, count, epoch):
        taken = list(itertools.islice(batches, count))
        result = step(train_step, taken, count, epoch)
        [batch] = taken
        note = [batch.micro_batch.index, batch.rows, result.loss.item()]
        with (folder / f"steps-{rank}.jsonl").open("a") as file:
            file.write(json.dumps(note) + "\n")
        return result

    def noted_save(saver, state, manifest):
        torch.save(slices(state), folder / f"saved-{rank}.pt")
        save(saver, state, manifest)

    def noted_restore(checkpoint, state, ranks):
        restore(checkpoint, state, ranks)
        torch.save(slices(state), folder / f"restored-{rank}.pt")

    TrainStep.run, Saver.save, setup.restore = noted_step, noted_save, noted_restore
    rank_process.main(run_path)


def trained(attempts):
    """Micro batch: its rows and its loss, of each step of every rank; none comes twice."""
    lines = [
        json.loads(line)
        for attempt in attempts
        for file in sorted(attempt.dir.path.glob("steps-*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    found = {index: (rows, loss) for index, rows, loss in lines}
    assert len(found) == len(lines)
    return found


def clips_of(found):
    """Micro batches and their clips; no clip comes twice."""
    rows = [row for rows, _ in found.values() for row in rows]
    assert len(rows) == len(set(rows))
    return {index: rows for index, (rows, _) in found.items()}


@pytest.mark.slow  # four starts of the trainer
def test_an_epoch_on_two_then_three_then_one_rank_is_the_epoch_that_two_would_have_had(
    tmp_path, clips_csv
):
    settings = ("epochs=1", "checkpoint.every_steps=0", "checkpoint.keep_last=0")
    trainer = Trainer(tmp_path, clips_csv, *settings, program=train_and_take_notes)
    alone = trainer.launch()
    assert alone.end() == [0, 0]
    on_2 = trainer.launch("trainer.max_steps=5")
    assert on_2.end() == [0, 0]
    on_3 = trainer.resume("latest", "trainer.max_steps=9", world_size=3)
    assert on_3.end() == [0, 0, 0]
    on_1 = trainer.resume("latest", "trainer.max_steps=1000", world_size=1)
    assert on_1.end() == [0]

    for before, after, size, new_size in ((on_2, on_3, 2, 3), (on_3, on_1, 3, 1)):
        saved = whole(before.dir.path, "saved", size)
        restored = whole(after.dir.path, "restored", new_size)
        assert saved.keys() == restored.keys()
        assert [name for name in saved if not torch.equal(saved[name], restored[name])] == []

    assert [len(trained([attempt])) for attempt in (on_2, on_3)] == [5 * 2, 4 * 3]
    uninterrupted, resharded = trained([alone]), trained([on_2, on_3, on_1])
    assert clips_of(resharded) == clips_of(uninterrupted)
    before = trained([on_2])
    assert {index: uninterrupted[index] for index in before} == before
    losses = [[loss for _, loss in found.values()] for found in (uninterrupted, resharded)]
    expected, mean = (sum(values) / len(values) for values in losses)
    assert abs(mean / expected - 1) < 0.1
    assert max(losses[1]) < 2 * max(losses[0])
