import pytest

from soractl.estimate.rehearsal_report import exit_code, one_line
from soractl.estimate.rehearsals import Bucket
from tests.soractl.estimate.measuring import config, rehearsal

WELL = Bucket(name="144p/17/0.56", batch_size=2, seconds=1.0)


@pytest.mark.parametrize(
    ("changes", "code"), [({}, 0), ({"fault": "no memory"}, 1), ({"fits_with": {"a": 1}}, 1)]
)
def test_a_bucket_that_needs_another_setting_or_does_not_end_is_exit_code_1(changes, code):
    bucket = Bucket(**{**vars(WELL), **changes})
    assert exit_code(rehearsal(config(), buckets=(WELL, bucket))) == code


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"peak_bytes": 92_500_000_000, "left_bytes": 51_600_000_000},
            "peak 92.5 GB, 51.6 GB left",
        ),
        ({"fits_with": {"a": 1}}, "peak -, - left; fits with --set a=1"),
    ],
)
def test_a_bucket_that_was_measured_is_a_line_at_once(changes, line):
    assert one_line(Bucket(**{**vars(WELL), **changes})) == f"1.00 s/step, {line}"
    assert one_line(Bucket(name="a", batch_size=1, fault="no memory")) == "no memory"
