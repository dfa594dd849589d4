import pytest

from soractl.queue.drain import follow_findings
from soractl.queue.slurm_answers import SlurmNode, parse_sinfo

OURS = "soractl: gpu.ecc (GPU 3: 12 errors)"


@pytest.mark.parametrize(
    ("state", "reason", "bad", "good", "follows"),
    [
        ("idle", None, {}, {"gpu.ecc"}, None),
        ("idle", None, {"gpu.ecc": "GPU 3"}, set(), "soractl: gpu.ecc (GPU 3)"),
        ("drained", OURS, {}, {"gpu.ecc"}, ""),
        ("drained", OURS, {}, set(), None),  # it is unknown now
        ("drained", OURS, {"gpu.ecc": "GPU 3"}, set(), None),
        ("draining", OURS, {"gpu.xid": "79"}, {"gpu.ecc"}, "soractl: gpu.xid (79)"),
        ("drained", "maintenance", {}, {"gpu.ecc"}, None),
        ("drained", "maintenance", {"gpu.ecc": "GPU 3"}, set(), None),
        ("down*", "Not responding", {}, {"gpu.ecc"}, None),
        ("idle", OURS, {}, {"gpu.ecc"}, None),  # a reason that Slurm kept from before
    ],
)
def test_what_soractl_drained_comes_back_when_its_check_is_good(state, reason, bad, good, follows):
    assert follow_findings(SlurmNode("n1", state, reason), bad, good) == follows


def test_nodes_are_read_once_each_with_reasons_that_hold_bars():
    assert parse_sinfo("n1|drained|a|b\nn2|idle|none\nn1|drained|a|b\n") == [
        SlurmNode("n1", "drained", "a|b"),
        SlurmNode("n2", "idle"),
    ]
