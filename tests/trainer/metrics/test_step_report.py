import math

import pytest
import torch

from trainer.data.buckets import Bucket
from trainer.data.loader import SkippedClip
from trainer.metrics.step_report import Means, band_name, report, summary
from trainer.step import MicroResult, StepResult

SMALL = Bucket("144p", 17, "0.56", 144, 256, batch_size=2)
LARGE = Bucket("240p", 17, "0.56", 240, 416, batch_size=1)
SPANS = {"data": 0.5, "encode": 1.0, "forward": 2.0, "backward": 4.0, "reduce": 0.25}
ENDING = {**SPANS, "optimizer": 0.125}


def micro(bucket, losses, t, *, clips=None, flops=1000):
    return MicroResult(
        bucket=bucket,
        index=0,
        clips=len(losses) if clips is None else clips,
        skipped=(SkippedClip(3, "a.mp4", "broken"),) if clips == 0 else (),
        losses=torch.tensor(losses),
        t=torch.tensor(t),
        flops=flops,
    )


def step(*micro, grad_norm=1.0):
    return StepResult(
        micro, grad_norm=torch.tensor(grad_norm), weight_norm=torch.tensor(2.0), lr=0.1
    )


STEPS = [
    step(micro(SMALL, [1.0, 2.0], [100.0, 999.0]), micro(LARGE, [4.0], [199.0])),
    step(micro(SMALL, [3.0, 5.0], [0.0, 500.0]), micro(LARGE, [9.0], [300.0], clips=0)),
]
TIMES = [SPANS, ENDING, SPANS, ENDING]


def test_a_rank_reports_means_of_what_it_trained_on():
    found = report(STEPS, TIMES, 1000, seen=set())
    assert found.losses == [2.75, 4.0]  # the mean over micro batches that had clips
    values = found.means.values
    assert {name: values[name] for name in values if name.startswith("loss/")} == {
        "loss/bucket/144p-17": 11 / 4,
        "loss/bucket/240p-17": 4.0,
        "loss/t/0.0-0.2": 8 / 3,
        "loss/t/0.4-0.6": 5.0,
        "loss/t/0.8-1.0": 2.0,
    }
    assert {name: values[name] for name in values if name.startswith("time/")} == {
        "time/bucket/144p-17_s": 7.0,
        "time/bucket/240p-17_s": 7.0,
        "time/data_s": 1.0,  # a step has two micro batches
        "time/encode_s": 2.0,
        "time/forward_s": 4.0,
        "time/backward_s": 8.0,
        "time/reduce_s": 0.5,
        "time/optimizer_s": 0.125,
    }
    assert (found.clips, found.flops, found.own_s) == (5, 4000, [7.5] * 4)
    assert found.tokens == 2 * SMALL.tokens + LARGE.tokens


def test_the_first_micro_batch_of_a_bucket_is_no_measure_of_its_cost():
    seen = set()
    assert report(STEPS, TIMES, 1000, seen).buckets.values == {SMALL.name: 7.0, LARGE.name: 7.0}
    assert report(STEPS, TIMES, 1000, seen).buckets.counts[SMALL.name] == 2
    assert report(STEPS[:1], TIMES[:2], 1000, set()).buckets.values == {}


def test_all_ranks_together_give_the_metrics_and_the_slow_rank():
    slow = [{**spans, "forward": 4.0} for spans in TIMES]
    reports = [report(STEPS, spans, 1000, set()) for spans in (TIMES, slow, TIMES)]
    values = summary(reports, elapsed_s=40.0, peak=1000.0)
    assert values["loss"] == 4.0
    assert values["avg_loss"] == 3.375
    assert values["s_per_step"] == 20.0
    assert values["clips_per_s"] == 15 / 40
    assert values["speed/tokens_per_s"] == 3 * (2 * SMALL.tokens + LARGE.tokens) / 40
    assert values["speed/mfu"] == pytest.approx(3 * 4000 / 40 / 3 / 1000)
    assert values["loss/bucket/144p-17"] == 11 / 4
    assert (values["ranks/slowest"], values["ranks/slowest_s"]) == (1, 19.0)
    assert values["ranks/mean_s"] == pytest.approx((15 + 19 + 15) / 3)
    assert values["time/wait_s"] == pytest.approx(2 * 2 * (2 + 2) / 3 / 2)


def test_neither_an_empty_batch_nor_a_loss_of_nan_counts_in_the_average():
    empty = step(micro(SMALL, [9.0], [0.0], clips=0))
    broken = step(micro(SMALL, [math.nan], [0.0]))
    good = [step(micro(SMALL, [loss], [0.0])) for loss in (1.0, 2.0, 4.0)]
    nothing, none = [empty, broken], [broken, empty]

    def averages(*by_rank):
        reports = [report(steps, [ENDING] * 2, 1000, set()) for steps in by_rank]
        values = summary(reports, 40.0, None)
        return values["loss"], values["avg_loss"]

    assert averages([good[0], broken], [empty, good[2]]) == (4.0, 2.5)
    assert averages([good[0], broken], [good[1], empty])[1] == 1.5
    assert [math.isnan(value) for value in averages(nothing, none)] == [True, True]


def starting(values, prefix):
    return {name: value for name, value in values.items() if name.startswith(prefix)}


def test_the_speed_of_a_bucket_counts_the_micro_batches_that_had_clips():
    slow = [{**spans, "forward": 9.0} for spans in TIMES]
    reports = [report(STEPS, spans, 1000, set()) for spans in (TIMES, slow)]
    assert starting(summary(reports, 40.0, None), "speed/bucket/") == {
        "speed/bucket/144p-17_tokens_per_s": 4 * SMALL.tokens / (2 * 7 + 2 * 14),
        "speed/bucket/240p-17_tokens_per_s": 2 * LARGE.tokens / (7 + 14),
    }


def test_a_gradient_counts_for_the_bucket_with_most_work_on_all_ranks():
    small, large = micro(SMALL, [1.0], [0.0], flops=3), micro(LARGE, [1.0], [0.0], flops=4)
    norms = (1.0, 2.0, 4.0, float("nan"))
    by_rank = [(large, small, small, small), (small, small, large, small)]
    by_rank += [(small, small, large, large)]
    reports = [
        report(
            [step(one, grad_norm=norm) for one, norm in zip(micros, norms, strict=True)],
            [ENDING] * 4,
            1000,
            set(),
        )
        for micros in by_rank
    ]
    assert starting(summary(reports, 40.0, None), "grad_norm/") == {
        "grad_norm/bucket/144p-17": (1.0 + 2.0) / 2,
        "grad_norm/bucket/240p-17": 4.0,
    }


def test_without_a_known_peak_there_is_no_utilisation():
    assert "speed/mfu" not in summary([report(STEPS, TIMES, 1000, set())], 1.0, None)


def test_means_of_nothing_are_left_out():
    means = Means()
    means.add("nothing", 0.0, 0)
    assert means.values == {}


@pytest.mark.parametrize(
    ("share", "name"), [(0, "loss/t/0.0-0.2"), (0.2, "loss/t/0.2-0.4"), (1, "loss/t/0.8-1.0")]
)
def test_a_timestep_belongs_to_one_of_five_bands(share, name):
    assert band_name(share) == name
