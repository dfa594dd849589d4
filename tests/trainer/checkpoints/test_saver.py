import json
import logging
import re
import shutil

import pytest
import torch
import torch.distributed as dist

from tests.trainer import ranks
from tests.trainer.ranks import Rank, whole
from trainer.atomic_files import describe_file
from trainer.checkpoints import checkpoint as checkpoint_module
from trainer.config import CheckpointConfig
from trainer.model.pretrained import read_tensors
from trainer.run_dir import RunDir

PAGE = 4096


def dump(rank, folder, name):
    torch.save(rank.slices(), folder / f"{name}-{rank.ranks.rank}.pt")


def unequal(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def intact(checkpoint):
    """Whether it holds what its manifest says, and nothing else."""
    manifest = checkpoint.manifest.files
    files = [path for path in checkpoint.path.rglob("*") if path.is_file()]
    there = {str(path.relative_to(checkpoint.path)): describe_file(path) for path in files}
    there.pop("checkpoint.json")
    return there == manifest


def train_with_a_save_at_3(group, folder, dtype):
    rank = Rank(group, folder, dtype)
    losses = rank.train(3)
    rank.save()
    losses += rank.train(6)  # while the checkpoint is written
    rank.saver.close()
    dump(rank, folder, "uninterrupted")
    (folder / f"losses-{group.rank}.json").write_text(json.dumps(losses))


def go_on_from_3(group, folder, dtype):
    rank = Rank(group, folder, dtype)
    [checkpoint] = rank.run.checkpoints()
    rank.restore(checkpoint)
    losses = rank.train(6)
    dump(rank, folder, "resumed")
    assert losses == json.loads((folder / f"losses-{group.rank}.json").read_text())[3:]


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_training_goes_on_bit_for_bit(tmp_path, dtype):
    ranks.run(2, train_with_a_save_at_3, tmp_path, dtype)
    [checkpoint] = RunDir(tmp_path).checkpoints()
    assert intact(checkpoint)
    ranks.run(2, go_on_from_3, tmp_path, dtype)
    assert unequal(whole(tmp_path, "uninterrupted", 2), whole(tmp_path, "resumed", 2)) == []


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


def train_and_save_in_small_files(group, folder):
    checkpoint_module._FILE_BYTES = 150  # several for each rank
    rank = Rank(group, folder)
    rank.train(2)
    rank.save()
    dump(rank, folder, "2")
    rank.train(5)
    rank.saver.close()


def restore_and_save(group, folder):
    rank = Rank(group, folder)
    rank.restore(rank.run.checkpoints()[-1])
    dump(rank, folder, str(group.world_size))
    rank.step += 1
    rank.save()
    rank.saver.close()


def test_state_is_the_same_bit_for_bit_on_two_then_three_then_one_rank(tmp_path):
    ranks.run(2, train_and_save_in_small_files, tmp_path)
    ranks.run(3, restore_and_save, tmp_path)
    ranks.run(1, restore_and_save, tmp_path)
    on_2, on_3, on_1 = (whole(tmp_path, str(size), size) for size in (2, 3, 1))
    assert unequal(on_2, on_3) == unequal(on_2, on_1) == []
    kinds = {name.partition(".")[0] for name in on_2}
    assert kinds == {"model", "ema", "master", "exp_avg", "exp_avg_sq", "step"}

    first, second, third = RunDir(tmp_path).checkpoints()
    for checkpoint in (first, second, third):
        assert intact(checkpoint)
        model = dict(read_tensors(checkpoint.path))
        assert unequal({f"model.{n}": t for n, t in model.items()}, part(on_2, "model")) == []
        ema = dict(read_tensors(checkpoint.ema))
        trained = {f"ema.{name}": t.flatten() for name, t in ema.items() if f"ema.{name}" in on_2}
        assert unequal(trained, part(on_2, "ema")) == []
        assert {name: t.shape for name, t in ema.items()} == {n: t.shape for n, t in model.items()}
        assert {tensor.dtype for tensor in ema.values()} == {torch.float32}
        untrained = [name for name in ema if f"ema.{name}" not in on_2]
        assert sorted(untrained) == ["frozen.bias", "frozen.weight", "seen"]
        assert all(torch.equal(ema[name], model[name].float()) for name in untrained)
    assert len(list(first.model.glob("*.safetensors"))) > 2
    assert len(list(second.model.glob("*.safetensors"))) == 1


def part(found, kind):
    return {name: tensor for name, tensor in found.items() if name.startswith(f"{kind}.")}


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
