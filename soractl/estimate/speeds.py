"""Seconds of a micro batch of each bucket: measured, or by rates where there are none. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soractl.estimate import bucket as by_rates
from soractl.estimate.measured import Measured
from soractl.estimate.rates import GpuRates
from trainer.config import ModelConfig

if TYPE_CHECKING:
    from trainer.data.buckets import Bucket


@dataclass(frozen=True)
class Speeds:
    """The speeds of one model on one kind of GPU."""

    model: ModelConfig
    gpu: GpuRates
    measured: Measured | None
    factor: float = 1.0  # measured over reckoned seconds, the median of buckets

    @classmethod
    def of(
        cls,
        buckets: Sequence["Bucket"],
        model: ModelConfig,
        gpu: GpuRates,
        measured: Measured | None,
    ) -> "Speeds":
        """With the factor of those buckets that were measured under their own names."""
        plain = cls(model, gpu, measured)
        if measured is None:
            return plain
        both = [
            plain.model_s(bucket) / by_rates.model_s(bucket, model, gpu)
            for bucket in buckets
            if bucket.name in measured.seconds
        ]
        return cls(model, gpu, measured, statistics.median(both) if both else 1.0)

    def is_measured(self, bucket: "Bucket") -> bool:
        """True if the bucket, or one of its resolution and length, was measured."""
        return self.measured is not None and self.measured.of(bucket) is not None

    def model_s(self, bucket: "Bucket") -> float:
        """Seconds of everything but VAE and T5."""
        reckoned = by_rates.model_s(bucket, self.model, self.gpu)
        name = self.measured.of(bucket) if self.measured else None
        if self.measured is None or name is None:
            return reckoned * self.factor
        encoders = 0.0 if self.measured.cached else self.encoders_s(bucket)
        return max(0.0, self.measured.seconds[name] - encoders)

    def encoders_s(self, bucket: "Bucket") -> float:
        """Seconds of VAE and T5, where features are not cached."""
        name = self.measured.of(bucket) if self.measured else None
        if self.measured and name and not self.measured.cached:
            own = self.measured.encode_s.get(name)
            return by_rates.encoders_s(bucket, self.gpu) if own is None else own
        return by_rates.encoders_s(bucket, self.gpu)

    def peak_bytes(self, bucket: "Bucket") -> int | None:
        """Measured bytes of the fullest rank."""
        name = self.measured.of(bucket) if self.measured else None
        return self.measured.peak_bytes.get(name) if self.measured and name else None
