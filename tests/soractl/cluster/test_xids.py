import pytest

from soractl.cluster.xids import XIDS, Action, xid_of


@pytest.mark.parametrize(
    ("line", "number", "action"),
    [
        ("[1.2] NVRM: Xid (PCI:0000:9b:00): 119, pid=1, name=x, Timeout", 119, Action.RESET_GPU),
        ("NVRM: Xid (PCI:0000:06:00 GPU-I:03): 31, pid=7, fault", 31, Action.RESTART_PROGRAM),
        ("NVRM: Xid (PCI:0000:10:1c): 63, pid=1896, Row Remapper: New row", 63, Action.NONE),
        ("NVRM: Xid (PCI:0000:06:00): 79, GPU has fallen off the bus.", 79, Action.RESTART_NODE),
        ("NVRM: Xid (PCI:0000:06:00): 999, something new", 999, None),
    ],
)
def test_a_line_of_the_driver_has_a_number_and_what_it_asks_for(line, number, action):
    found, xid = xid_of(line)
    assert (found, xid.action if xid else None) == (number, action)


def test_other_lines_are_no_xid():
    assert xid_of("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.159.04") is None


def test_each_number_is_there_once():
    assert all(number == xid.number for number, xid in XIDS.items())
