"""A rehearsal of stage 1 as it would be written."""

from dataclasses import replace

from soractl.estimate import rehearsals
from trainer.config import load_stage
from trainer.settings import dump

NAME = "360p/51/0.56"


def config(*overrides):
    return load_stage("stage1", overrides).config


def rehearsal(settings, **changes):
    row = rehearsals.Bucket(
        name=NAME, batch_size=8, seconds=4.0, encode_s=1.5, peak_bytes=70_000_000_000
    )
    found = rehearsals.Rehearsal(
        stage="stage1",
        created_unix_s=1_796_000_000.0,
        commit=None,
        nodes=("n1",),
        world_size=8,
        gpu="NVIDIA H200",
        buckets=(row, rehearsals.Bucket(name="720p/51/0.56", batch_size=2, fault="no memory")),
        reduced_bytes_per_s=None,
        checkpoint_s=None,
        checkpoint_stall_s=None,
        checkpoint_bytes=None,
        checkpoint_fault=None,
        settings=dump(settings),
    )
    return replace(found, **changes)
