import pytest

from soractl.terminal.hints import repeated, to_type


@pytest.fixture
def given():
    """Give options as on the command line; they are forgotten afterwards."""
    yield lambda name, value, default=None: repeated(name, default)(value)
    for name in ("--runs", "--hostfile"):
        repeated(name)(None)


def test_a_command_to_type_repeats_the_options_that_it_needs_and_no_others(given):
    given("--runs", "my runs", "runs")
    given("--hostfile", "two.txt")
    assert to_type("status", "7") == "soractl status 7 --runs 'my runs'"
    assert to_type("launch", "s") == "soractl launch s --runs 'my runs' --hostfile two.txt"
    assert to_type("sync") == "soractl sync --hostfile two.txt"
    assert to_type("gpus") == "soractl gpus"


def test_the_default_is_not_repeated_and_the_last_invocation_counts(given):
    given("--runs", "there", "runs")
    given("--runs", "runs", "runs")
    assert to_type("status") == "soractl status"
