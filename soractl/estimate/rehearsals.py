"""Results of rehearsals: `runs/.rehearsals/STAGE.json`, written by `launch --rehearse`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.atomic_files import RunDirError, read_json, write_json
from trainer.run_dir import make_shared, rehearsal_path


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Time and memory of one bucket; None where it did not end or is not known."""

    name: str  # 240p/51/0.56
    batch_size: int
    seconds: float | None = None  # of a step with one micro batch, the slowest rank's
    cold_s: float | None = None  # of the first step
    data_s: float | None = None  # waiting for clips
    encode_s: float | None = None  # VAE and T5
    peak_bytes: int | None = None  # the fullest rank's
    left_bytes: int | None = None
    fault: str | None = None  # why it did not end
    fits_with: Mapping[str, float] = field(default_factory=dict)  # settings with which it did

    @property
    def group(self) -> str:
        """Resolution and length, `240p/51`."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A stage on real nodes."""

    stage: str
    created_unix_s: float
    commit: str | None
    nodes: tuple[str, ...]
    world_size: int
    gpu: str | None  # None on CPUs
    buckets: tuple[Bucket, ...]
    reduced_bytes_per_s: float | None  # of a rank, while all add up a tensor
    checkpoint_s: float | None
    checkpoint_stall_s: float | None  # for which training stands still
    checkpoint_bytes: int | None
    checkpoint_fault: str | None
    settings: Mapping[str, Any]  # as `config.json` has them

    def as_json(self) -> dict[str, Any]:
        """As the file says it."""
        return asdict(self)


def file_of(root: Path, stage: str) -> Path:
    """`runs/.rehearsals/STAGE.json`."""
    folder = rehearsal_path(root, stage)
    return folder.with_name(f"{stage}.json")


def write(root: Path, rehearsal: Rehearsal) -> None:
    """Replace the stage's result."""
    file = file_of(root, rehearsal.stage)
    make_shared(file.parent)
    write_json(file, rehearsal.as_json())


def read(root: Path, stage: str) -> Rehearsal | None:
    """The stage's last one; None if there is none that can be read."""
    try:
        values = read_json(file_of(root, stage))
        buckets = tuple(Bucket(**one) for one in values.pop("buckets"))
        nodes = tuple(values.pop("nodes"))
        return Rehearsal(**values, buckets=buckets, nodes=nodes)
    except (OSError, RunDirError, KeyError, TypeError):
        return None
