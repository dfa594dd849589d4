import contextlib
import ctypes
import os
import shutil
import struct
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from tests.trainer import ranks
from tests.trainer.ranks import Rank, Tiny
from trainer.config import TextEncoderConfig, load_stage
from trainer.distributed.node_group import node_of
from trainer.model import build as networks
from trainer.model.pretrained import WeightsError, load_weights

IN_OPEN = 0x20


@contextlib.contextmanager
def files_opened(folder):
    """Names of the files of a folder that any process opens meanwhile.

    How often is not known: Linux joins equal events in a row, of two processes too. So ranks whose
    reading is to be distinguished get a copy of the files each.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_OPEN) >= 0
    found = set()
    try:
        yield found
        with contextlib.suppress(BlockingIOError):
            while events := os.read(descriptor, 65536):
                while events:
                    length = struct.unpack("iIII", events[:16])[3]
                    name, events = events[16 : 16 + length], events[16 + length :]
                    found.add(os.fsdecode(name.rstrip(b"\0")))
    finally:
        os.close(descriptor)
    found.discard("")  # the folder itself


def files_opened_by_ranks(folders, action, *arguments, ranks_per_node=None):
    """The same for `action(group, folders[rank], *arguments)` on as many ranks, by rank."""
    with contextlib.ExitStack() as watching:
        found = [watching.enter_context(files_opened(folder)) for folder in folders]
        each = (_in_own_folder, action, folders, arguments)
        ranks.run(len(folders), *each, ranks_per_node=ranks_per_node)
    return found


def _in_own_folder(group, action, folders, arguments):
    action(group, folders[group.rank], *arguments)


def copies(folder, number):
    """So many copies of a folder."""
    names = [folder.with_name(f"{folder.name}-{n}") for n in range(number)]
    return [shutil.copytree(folder, name) for name in names]


def save_once(group, folder):
    rank = Rank(group, folder)
    rank.train(2)
    rank.save()
    rank.saver.close()


def restore_from(group, files, folder):
    [checkpoint] = ranks.RunDir(files.parents[2]).checkpoints()
    Rank(group, folder).restore(checkpoint)


@pytest.mark.parametrize("part", ["model", "ema"])
def test_only_one_rank_of_a_node_reads_a_checkpoints_weights(tmp_path, part):
    ranks.run(1, save_once, tmp_path / "run")
    [checkpoint] = ranks.RunDir(tmp_path / "run").checkpoints()
    names = {path.name for path in (checkpoint.path / part).iterdir()}
    folders = [
        copy / checkpoint.path.relative_to(tmp_path / "run") / part
        for copy in copies(tmp_path / "run", 4)
    ]

    def opened(world_size, per_node):
        return files_opened_by_ranks(
            folders[:world_size], restore_from, tmp_path / "run", ranks_per_node=per_node
        )

    assert opened(1, 1) == [names]
    assert opened(3, 3) == [names, set(), set()]
    assert opened(4, 2) == [names, set(), names, set()]


def load_start_weights(group, folder, expected):
    torch.manual_seed(group.rank)
    model, node = Tiny(), node_of(group)
    report = node.run_on_reader(lambda: load_weights(model, folder))
    node.broadcast_from_reader(model.state_dict().values())
    assert len(report.loaded) == 10
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())


def test_start_weights_are_read_by_one_rank_and_are_the_same_on_all(tmp_path):
    expected = Tiny().state_dict()
    (tmp_path / "weights").mkdir()
    save_file(expected, tmp_path / "weights/model.safetensors")
    folders = copies(tmp_path / "weights", 3)
    opened = files_opened_by_ranks(folders, load_start_weights, expected)
    assert opened == [{"model.safetensors"}, set(), set()]


def load_what_does_not_fit(group, path):
    node = node_of(group)
    with pytest.raises(WeightsError, match=r"1 missing \(scale\)"):
        node.run_on_reader(lambda: load_weights(Tiny(), path))


def test_weights_that_do_not_fit_are_reported_by_every_rank(tmp_path):
    tensors = Tiny().state_dict()
    del tensors["scale"]
    save_file(tensors, tmp_path / "model.safetensors")
    ranks.run(3, load_what_does_not_fit, tmp_path)


def build_encoders(group, folder, settings, expected_file):
    expected = torch.load(expected_file)
    node = node_of(group)
    where = {"device": group.device, "dtype": torch.bfloat16}
    vae_config = replace(settings.vae, weights=str(folder / "vae.safetensors"))
    text_config = replace(settings.text_encoder, weights=str(folder))
    vae = node.build(partial(networks.build_vae, vae_config, group.rank, **where))
    captions = node.build(partial(networks.build_caption_encoder, text_config, group.rank, **where))
    for built, wanted in zip((vae, captions), expected, strict=True):
        assert built.state_dict().keys() == wanted.keys()
        assert all(torch.equal(t, wanted[name]) for name, t in built.state_dict().items())
    assert captions.encode(["a cat"])[0].dtype == torch.bfloat16


def test_vae_and_caption_encoder_are_read_by_one_rank_and_are_the_same_on_all(tmp_path, t5_folder):
    smoke = load_stage("smoke").config
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    written = networks.build_vae(smoke.vae, 0, **where).state_dict()
    save_file(written, t5_folder / "vae.safetensors")
    t5 = TextEncoderConfig(
        arch="t5-v1_1-xxl", max_length=4, clean_captions=False, weights=str(t5_folder)
    )
    where["dtype"] = torch.bfloat16
    expected = [
        {name: tensor.bfloat16() for name, tensor in written.items()},
        dict(networks.build_caption_encoder(t5, 0, **where).state_dict()),
    ]
    torch.save(expected, tmp_path / "expected.pt")

    folders = copies(t5_folder, 3)
    settings = replace(smoke, text_encoder=t5)
    opened = files_opened_by_ranks(folders, build_encoders, settings, tmp_path / "expected.pt")
    weights = {"model.safetensors", "vae.safetensors"}
    assert [names & weights for names in opened] == [weights, set(), set()]


def build_what_lacks_tensors(group, config):
    where = {"device": group.device, "dtype": torch.float32}
    with pytest.raises(WeightsError, match="1 missing"):
        node_of(group).build(partial(networks.build_vae, config, 0, **where))


def test_an_encoder_of_which_a_tensor_is_missing_is_reported_by_every_rank(tmp_path):
    config = load_stage("smoke").config.vae
    where = {"device": torch.device("cpu"), "dtype": torch.float32}
    tensors = networks.build_vae(config, 0, **where).state_dict()
    del tensors["shift"]
    save_file(tensors, tmp_path / "model.safetensors")
    ranks.run(2, build_what_lacks_tensors, replace(config, weights=str(tmp_path)))
