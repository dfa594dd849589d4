import pytest

from soractl.estimate.rehearsal_report import exit_code
from soractl.estimate.rehearsals import Bucket
from tests.soractl.estimate.measuring import config, rehearsal

WELL = Bucket(name="144p/17/0.56", batch_size=2, seconds=1.0)


@pytest.mark.parametrize(
    ("changes", "code"), [({}, 0), ({"fault": "no memory"}, 1), ({"fits_with": {"a": 1}}, 1)]
)
def test_a_bucket_that_needs_another_setting_or_does_not_end_is_exit_code_1(changes, code):
    bucket = Bucket(**{**vars(WELL), **changes})
    assert exit_code(rehearsal(config(), buckets=(WELL, bucket))) == code
