import contextlib
import ctypes
import os
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


def restore(group, folder):
    rank = Rank(group, folder)
    [checkpoint] = rank.run.checkpoints()
    rank.restore(checkpoint)


def test_a_node_reads_each_file_of_a_checkpoint_as_often_as_a_single_rank_does(tmp_path):
    ranks.run(1, save_once, tmp_path)
    [checkpoint] = ranks.RunDir(tmp_path).checkpoints()
    model, ema = {}, {}
    for nodes, per_node in ((1, 1), (1, 3), (2, 2)):
        key = nodes, per_node
        with (
            opens_counted(checkpoint.model) as model[key],
            opens_counted(checkpoint.ema) as ema[key],
        ):
            ranks.run(nodes * per_node, restore, tmp_path, ranks_per_node=per_node)
    for folder, found in ((checkpoint.model, model), (checkpoint.ema, ema)):
        assert sorted(found[1, 1]) == sorted(path.name for path in folder.iterdir())
        assert found[1, 3] == found[1, 1]
        assert found[2, 2] == found[1, 1] + found[1, 1]


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
