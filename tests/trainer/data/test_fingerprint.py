from dataclasses import replace
from pathlib import Path

import pytest

from tests.making import make_manifest
from trainer.checkpoint_dir import Checkpoint
from trainer.config import load_stage
from trainer.data.dataset import load_clips
from trainer.data.fingerprint import check_same_data, fingerprint
from trainer.remedy import Remedy, remedy_of
from trainer.settings import ConfigError

SETTINGS = load_stage("smoke").config


def clips(folder, rows):
    path = folder / "clips.csv"
    lines = [f"{row}.mp4,a cat,51,240,426\n" for row in range(rows)]
    path.write_text("path,text,num_frames,height,width\n" + "".join(lines))
    return load_clips(path)


@pytest.fixture
def then(tmp_path):
    return fingerprint(clips(tmp_path, 3), SETTINGS, 0)


def refused(then, now):
    manifest = make_manifest(1, data_fingerprint=then)
    checkpoint = Checkpoint(Path("epoch0-global_step1"), manifest)
    with pytest.raises(ConfigError) as caught:
        check_same_data(checkpoint, now)
    before, _, after = str(caught.value).partition("; ")
    assert after == "its weights can go on if the epoch begins anew"
    assert remedy_of(caught.value) == Remedy(reset_data=True)
    return before.removeprefix("changed since epoch0-global_step1: ")


def test_a_changed_table_is_reported_as_closely_as_the_change_is_known(tmp_path, then):
    buckets = SETTINGS.buckets
    other = replace(SETTINGS, seed=SETTINGS.seed + 1, buckets=replace(buckets, keep={}))
    now = fingerprint(clips(tmp_path, 5), other, 0)
    clips_changed = "the clips of data.path (3 rows then, 5 now)"
    assert refused(then, now) == f"{clips_changed}, buckets.keep, seed"
    old = {name: value for name, value in then.items() if "buckets." not in name}
    del old["rows of data.path"]  # as checkpoints were before
    assert refused(old, now) == "the clips of data.path, buckets, seed"


def test_what_is_the_same_is_not_refused(then, tmp_path):
    manifest = make_manifest(1, data_fingerprint=then)
    checkpoint = Checkpoint(Path("epoch0-global_step1"), manifest)
    check_same_data(checkpoint, fingerprint(clips(tmp_path, 3), SETTINGS, 0))
