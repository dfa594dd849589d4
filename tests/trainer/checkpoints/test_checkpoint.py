import errno
import json
import re

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint import CheckpointException

from tests.trainer import ranks
from tests.trainer.distributed.test_node_group import save_once
from tests.trainer.ranks import Rank, whole
from trainer.atomic_files import describe_file
from trainer.checkpoints import checkpoint as checkpoint_module
from trainer.checkpoints.checkpoint import ShardWriter, read_whole
from trainer.model.pretrained import WeightsError, read_tensors
from trainer.run_dir import RunDir


def test_a_damaged_header_is_reported_with_its_file(tmp_path):
    ranks.run(1, save_once, tmp_path)
    [checkpoint] = RunDir(tmp_path).checkpoints()
    file = next(checkpoint.model.glob("*.safetensors"))
    file.write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match=re.escape(f"{file} cannot be read: ")) as refused:
        list(read_whole(checkpoint.model))
    assert isinstance(refused.value.__context__, SafetensorError)


@pytest.mark.parametrize("numbers", [500, 30_000])  # torch writes small and large ones in two ways
def test_shards_that_find_no_room_fail_with_the_disks_own_words(small_disk, group_of_one, numbers):
    shards = {f"t{i}": torch.zeros(numbers) for i in range(40)}
    with pytest.raises(CheckpointException) as failed:
        dcp.save(shards, storage_writer=ShardWriter(small_disk("64k") / "optimizer"))
    [(cause, _)] = failed.value.failures.values()
    assert (type(cause), cause.errno) == (OSError, errno.ENOSPC)


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
