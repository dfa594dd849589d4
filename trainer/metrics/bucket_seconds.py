"""The measured seconds of a micro batch of each bucket, kept in the run's folder."""

from typing import Any

import torch.distributed as dist

from trainer.atomic_files import read_json, write_json
from trainer.distributed.parallel import Ranks
from trainer.metrics.step_report import Means
from trainer.run_dir import RunDir


class BucketSeconds:
    """Measurements since the run began, on rank 0."""

    def __init__(self, run: RunDir, ranks: Ranks) -> None:
        self._path, self._ranks = run.bucket_seconds, ranks
        self._means = Means()
        if ranks.is_first and self._path.exists():
            for name, row in read_json(self._path).items():
                self._means.add(name, row["seconds"] * row["micro_batches"], row["micro_batches"])

    def add(self, measured: Means) -> None:
        """Take in what was measured since the last call."""
        self._means.update(measured)

    def save(self) -> None:
        """Write it down for a later attempt, and for whoever is curious."""
        if self._ranks.is_first:
            rows = {
                name: {"seconds": mean, "micro_batches": self._means.counts[name]}
                for name, mean in sorted(self._means.values.items())
            }
            write_json(self._path, rows)

    def agreed(self) -> dict[str, float]:
        """The mean by the bucket's name, the same on all ranks, which must all ask."""
        means: list[Any] = [self._means.values]
        dist.broadcast_object_list(means, src=0)
        return dict(means[0])
