from dataclasses import replace

from trainer.atomic_files import read_json
from trainer.metrics.bucket_seconds import BucketSeconds
from trainer.metrics.step_report import Means
from trainer.run_dir import create_run


def measured(**seconds):
    means = Means()
    for name, (value, count) in seconds.items():
        means.add(name, value, count)
    return means


def test_an_attempt_goes_on_with_the_means_of_those_before(tmp_path, group_of_one):
    run = create_run(tmp_path, "smoke")
    first = BucketSeconds(run, group_of_one)
    first.add(measured(long=(6.0, 2), short=(1.0, 1)))
    first.save()
    assert read_json(run.bucket_seconds) == {
        "long": {"seconds": 3.0, "micro_batches": 2},
        "short": {"seconds": 1.0, "micro_batches": 1},
    }
    second = BucketSeconds(run, group_of_one)
    second.add(measured(long=(9.0, 1)))
    assert second.agreed() == {"long": 5.0, "short": 1.0}


def test_only_the_first_rank_reads_and_writes_them(tmp_path, group_of_one):
    run = create_run(tmp_path, "smoke")
    other = BucketSeconds(run, replace(group_of_one, rank=1))
    other.add(measured(long=(6.0, 2)))
    other.save()
    assert not run.bucket_seconds.exists()
