from contextlib import contextmanager

import pytest

from tests.trainer import ranks
from tests.trainer.distributed.test_node_group import save_once
from tests.trainer.ranks import Rank
from trainer.checkpoints.integrity import files_of, refuse_damaged, source_of
from trainer.model.pretrained import WeightsError
from trainer.remedy import Remedy, remedy_of
from trainer.run_dir import RunDir


@contextmanager
def flipped(file):
    """One bit in the middle of a file is another meanwhile."""
    good = file.read_bytes()
    middle = len(good) // 2
    file.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    try:
        yield
    finally:
        file.write_bytes(good)


def save_twice(group, folder):
    rank = Rank(group, folder)
    for step in (1, 2):
        rank.train(step)
        rank.save()
    rank.saver.close()


def refuse(group, folder, file):
    rank = Rank(group, folder)
    before, damaged = rank.run.checkpoints()
    with pytest.raises(WeightsError) as refused:
        rank.restore(damaged)
    assert str(refused.value) == (
        f"{damaged.path / file} is damaged: it is not what checkpoint.json says; "
        f"the complete checkpoint before it is {before.path}"
    )
    assert remedy_of(refused.value) == Remedy(checkpoint=before.path)


@pytest.mark.parametrize("part", ["model", "ema", "optimizer/.metadata", "optimizer/__1_0.distcp"])
def test_every_rank_says_which_file_is_damaged_and_what_to_resume_from(tmp_path, part):
    ranks.run(2, save_twice, tmp_path)
    damaged = RunDir(tmp_path).checkpoints()[-1]
    [file] = [name for name in files_of(damaged, damaged.path / part) if "index" not in name]
    with flipped(damaged.path / file):
        ranks.run(2, refuse, tmp_path, file)


def test_start_weights_are_traced_to_their_checkpoint(tmp_path):
    ranks.run(1, save_once, tmp_path)
    [checkpoint] = RunDir(tmp_path).checkpoints()
    files = sorted(checkpoint.manifest.files)
    weights = next(name for name in files if name.startswith("ema/") and "index" not in name)
    for named, part in ((".", "model/"), ("ema", "ema/"), (weights, weights)):
        path = checkpoint.path / named
        assert source_of(path) == checkpoint
        assert sorted(files_of(checkpoint, path)) == [n for n in files if n.startswith(part)]
    assert source_of(tmp_path) is None
    with flipped(checkpoint.path / weights), pytest.raises(WeightsError) as refused:
        refuse_damaged(checkpoint, [weights])
    assert str(refused.value).endswith(f"no complete checkpoint is older than {checkpoint.name}")
