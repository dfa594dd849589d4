import pytest

from soractl.errors import Fault, FaultKind
from soractl.remote.deadline import Deadline, DeadlinePassed, no_end_within


def test_the_time_that_is_left_becomes_less():
    deadline = Deadline(60)
    first = deadline.left()
    assert 0 < deadline.left() < first <= 60
    assert 0 < deadline.elapsed() < 60


def test_no_time_is_left_when_it_is_over():
    with pytest.raises(DeadlinePassed):
        Deadline(0).left()


def test_a_request_without_an_end_says_within_what_time():
    assert no_end_within(2.50) == Fault(FaultKind.DEADLINE, "no end within 2.5 s")
