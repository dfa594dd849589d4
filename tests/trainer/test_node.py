import contextlib
import ctypes
import os
import shutil
import struct
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

from tests.trainer import ranks
from tests.trainer.ranks import Rank, Tiny
from trainer.model.pretrained import WeightsError, load_weights
from trainer.node import node_of

IN_OPEN = 0x20


@contextlib.contextmanager
def opens_counted(folder):
    """How often each file of a folder is opened meanwhile, by whatever process; Linux counts."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_OPEN) >= 0
    found = Counter()
    try:
        yield found
        with contextlib.suppress(BlockingIOError):
            while events := os.read(descriptor, 65536):
                while events:
                    length = struct.unpack("iIII", events[:16])[3]
                    name, events = events[16 : 16 + length], events[16 + length :]
                    found[os.fsdecode(name.rstrip(b"\0"))] += bool(name)
    finally:
        os.close(descriptor)
    del found[""]


def save_once(group, folder):
    rank = Rank(group, folder)
    rank.train(2)
    rank.save()
    rank.saver.close()


def restore_own_copy(group, folder):
    rank = Rank(group, folder / str(group.rank))
    [checkpoint] = rank.run.checkpoints()
    rank.restore(checkpoint)


def test_a_node_reads_each_file_of_a_checkpoint_as_often_as_a_single_rank_does(tmp_path):
    ranks.run(1, save_once, tmp_path / "0")
    for rank in range(1, 4):  # Linux may count two ranks that open one file at once as one
        shutil.copytree(tmp_path / "0", tmp_path / str(rank))

    def opened(nodes, per_node):
        world_size = nodes * per_node
        with contextlib.ExitStack() as counting:
            found = [
                counting.enter_context(opens_counted(folder))
                for rank in range(world_size)
                for checkpoint in ranks.RunDir(tmp_path / str(rank)).checkpoints()
                for folder in (checkpoint.model, checkpoint.ema)
            ]
            ranks.run(world_size, restore_own_copy, tmp_path, ranks_per_node=per_node)
        return found

    nothing = [Counter(), Counter()]
    reader = opened(1, 1)
    [checkpoint] = ranks.RunDir(tmp_path / "0").checkpoints()
    for folder, found in zip((checkpoint.model, checkpoint.ema), reader, strict=True):
        assert sorted(found) == sorted(path.name for path in folder.iterdir())
    assert opened(1, 3) == [*reader, *nothing, *nothing]
    assert opened(2, 2) == [*reader, *nothing, *reader, *nothing]


def load_start_weights(group, path, expected):
    torch.manual_seed(group.rank)
    model, node = Tiny(), node_of(group)
    report = node.ask_reader(lambda: load_weights(model, path))
    node.hand_out(model.state_dict().values())
    assert len(report.loaded) == 10
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())


def test_start_weights_are_read_by_one_rank_and_are_the_same_on_all(tmp_path):
    expected = Tiny().state_dict()
    save_file(expected, tmp_path / "model.safetensors")
    with opens_counted(tmp_path) as alone:
        ranks.run(1, load_start_weights, tmp_path, expected)
    with opens_counted(tmp_path) as together:
        ranks.run(3, load_start_weights, tmp_path, expected)
    assert alone == together
    assert alone["model.safetensors"] > 0


def load_what_does_not_fit(group, path):
    node = node_of(group)
    with pytest.raises(WeightsError, match=r"1 missing \(scale\)"):
        node.ask_reader(lambda: load_weights(Tiny(), path))


def test_weights_that_do_not_fit_are_said_by_every_rank(tmp_path):
    tensors = Tiny().state_dict()
    del tensors["scale"]
    save_file(tensors, tmp_path / "model.safetensors")
    ranks.run(3, load_what_does_not_fit, tmp_path)
