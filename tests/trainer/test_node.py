import contextlib
import ctypes
import os
import shutil
import struct
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.trainer import ranks
from tests.trainer.ranks import Rank, Tiny
from trainer import networks
from trainer.config import TextEncoderConfig, load_stage
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


def build_encoders(group, settings, expected_file):
    expected = torch.load(expected_file)
    node = node_of(group)
    where = {"device": group.device, "dtype": torch.bfloat16}
    vae = node.build(lambda read: networks.build_vae(settings.vae, group.rank, read=read, **where))
    captions = node.build(
        lambda read: networks.build_caption_encoder(
            settings.text_encoder, group.rank, read=read, **where
        )
    )
    for built, wanted in zip((vae, captions), expected, strict=True):
        assert built.state_dict().keys() == wanted.keys()
        assert all(torch.equal(t, wanted[name]) for name, t in built.state_dict().items())
    assert captions.encode(["a cat"])[0].dtype == torch.bfloat16


def test_vae_and_caption_encoder_are_read_by_one_rank_and_are_the_same_on_all(tmp_path, t5_folder):
    (tmp_path / "vae").mkdir()
    smoke = load_stage("smoke").config
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    written = networks.build_vae(smoke.vae, 0, **where).state_dict()
    save_file(written, tmp_path / "vae/model.safetensors")
    settings = replace(
        smoke,
        vae=replace(smoke.vae, weights=str(tmp_path / "vae")),
        text_encoder=TextEncoderConfig(
            arch="t5-v1_1-xxl", max_length=4, clean_captions=False, weights=str(t5_folder)
        ),
    )
    where["dtype"] = torch.bfloat16
    expected = [
        {name: tensor.bfloat16() for name, tensor in written.items()},
        dict(networks.build_caption_encoder(settings.text_encoder, 0, **where).state_dict()),
    ]

    torch.save(expected, tmp_path / "expected.pt")

    def opened(world_size):
        with opens_counted(tmp_path / "vae") as of_vae, opens_counted(t5_folder) as of_t5:
            ranks.run(world_size, build_encoders, settings, tmp_path / "expected.pt")
        return of_vae["model.safetensors"], of_t5["model.safetensors"]

    assert min(opened(1)) > 0
    assert opened(3) == opened(1)


def build_what_lacks_tensors(group, config):
    where = {"device": group.device, "dtype": torch.float32}
    with pytest.raises(WeightsError, match="1 missing"):
        node_of(group).build(lambda read: networks.build_vae(config, 0, read=read, **where))


def test_an_encoder_of_which_a_tensor_is_missing_is_said_by_every_rank(tmp_path):
    config = load_stage("smoke").config.vae
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    tensors = networks.build_vae(config, 0, **where).state_dict()
    del tensors["shift"]
    save_file(tensors, tmp_path / "model.safetensors")
    ranks.run(2, build_what_lacks_tensors, replace(config, weights=str(tmp_path)))
