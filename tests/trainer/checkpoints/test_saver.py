import logging
import re
import shutil

import pytest
import torch.distributed as dist

from tests.trainer import ranks
from tests.trainer.checkpoints.test_checkpoint import dump, intact, unequal
from tests.trainer.ranks import Rank, whole
from trainer.checkpoints import checkpoint as checkpoint_module
from trainer.config import CheckpointConfig
from trainer.run_dir import RunDir

PAGE = 4096


def train_with_room_made(group, folder, dtype):
    checkpoint_module._PIECE_BYTES = 100  # fewer than some tensors have
    losses = Rank(group, folder, dtype).train(3)
    rank = Rank(group, folder, dtype)
    rank.saver.preallocate_host_memory(rank.state)
    room = addresses(rank)
    assert rank.train(3) == losses
    rank.save()
    rank.saver.close()
    assert addresses(rank) == room
    dump(rank, folder, "saved")
    [checkpoint] = rank.run.checkpoints()
    restored = Rank(group, folder, dtype)
    restored.restore(checkpoint)
    dump(restored, folder, "restored")


def addresses(rank):
    return {name: place.data_ptr() for name, place in rank.saver._memory._places.items()}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_room_for_the_first_save_is_made_before_training_and_changes_nothing(tmp_path, dtype):
    ranks.run(1, train_with_room_made, tmp_path, dtype)
    assert unequal(whole(tmp_path, "saved", 1), whole(tmp_path, "restored", 1)) == []


def train_while_the_disk_is_full(group, folder):
    errors = []
    logging.getLogger("trainer").addHandler(Lines(errors))
    rank = Rank(group, folder / "run")
    rank.train(1)
    rank.save()
    rank.saver.wait()
    dist.barrier()  # rank 0 publishes after the others are done
    free = shutil.disk_usage(folder).free
    dist.barrier()  # and fills the disk after the others have looked
    for step, left in enumerate(range(0, free, PAGE), 2):
        if group.is_first:
            (folder / "filler").write_bytes(bytes(free - left))
        dist.barrier()
        rank.train(step)
        rank.save()
        rank.saver.wait()
        if group.is_first:
            names = {path.name for path in rank.run.checkpoints_folder.iterdir()}
            given_up = f"epoch0-global_step{step}" not in names
            assert names - {f"epoch0-global_step{step}"} == {"epoch0-global_step1"}
            why = rf"checkpoint epoch0-global_step{step} given up, training goes on: "
            why += ".*No space left on device.*"
            assert [bool(re.fullmatch(why, line)) for line in errors] == [True] * given_up, errors
            if not given_up:
                shutil.rmtree(rank.run.checkpoints()[-1].path)
            (folder / "filler").unlink()
            errors.clear()
        dist.barrier()
    (folder / f"last-{group.rank}").write_text(f"{step} {given_up}" if group.is_first else "")
    rank.saver.close()


class Lines(logging.Handler):
    def __init__(self, lines):
        super().__init__(logging.ERROR)
        self._lines = lines

    def emit(self, record):
        self._lines.append(record.getMessage())


def test_on_a_full_disk_a_save_is_given_up_with_one_line_and_training_goes_on(small_disk):
    folder = small_disk("400k")
    ranks.run(2, train_while_the_disk_is_full, folder)
    assert (folder / "last-0").read_text().endswith("False")
    [checkpoint] = RunDir(folder / "run").checkpoints()
    assert intact(checkpoint)


def save_ten_times(group, folder):
    keep = CheckpointConfig(every_steps=0, keep_last=2, keep_every_steps=4)
    rank = Rank(group, folder, keep=keep)
    for step in range(1, 11):
        rank.train(step)
        rank.save()
        rank.saver.wait()
        if step == 3 and group.is_first:
            rank.run.checkpoints()[-1].reader_mark("somebody").touch()
        if step == 6 and group.is_first:
            assert steps_of(rank.run) == [3, 4, 5, 6]
            rank.run.checkpoints()[0].reader_mark("somebody").unlink()
    rank.saver.close()


def steps_of(run):
    return [checkpoint.manifest.global_step for checkpoint in run.checkpoints()]


def test_the_newest_the_round_ones_and_what_is_being_read_stay(tmp_path):
    ranks.run(2, save_ten_times, tmp_path)
    assert steps_of(RunDir(tmp_path)) == [4, 8, 9, 10]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4
