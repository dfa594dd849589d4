from soractl.doctor import pairs_report
from soractl.doctor.measure_pairs import Pairs

SPEEDS = {("n1", "n2"): 4.1e9, ("n3", "n4"): 0.2e9, ("n3", "n1"): 0.0, ("n4", "n2"): 4.0e9}
FOUND = Pairs("nodes.txt", SPEEDS, {("n3", "n1"): "Connection reset"}, 12.3)


def test_pairs_are_shown_with_the_slowest_first():
    assert pairs_report.lines(FOUND).lines() == [
        "PAIR     GB/s  VERDICT",
        "n3 - n1  0.00  Connection reset",
        "n3 - n4  0.20  slow",
        "n4 - n2  4.00  good",
        "n1 - n2  4.10  good",
    ]


def test_the_node_that_is_slow_with_every_partner_is_named():
    blame, count = pairs_report.notes(FOUND)
    assert blame.startswith("slow with every partner: n3; look at its ports")
    assert count == "nodes.txt: 2 slow of 4 pairs in 12.3 s"
    assert FOUND.exit_code == 1


def test_a_way_between_two_good_nodes_is_named_as_such():
    link = Pairs("nodes.txt", {**SPEEDS, ("n3", "n1"): 4.0e9, ("n3", "n2"): 4.0e9})
    assert [line for line in pairs_report.notes(link) if line.startswith("slow together")] == [
        "slow together, and not with others: n3 - n4; look at the way between them"
    ]


def test_json_has_every_pair():
    found = pairs_report.as_json(FOUND)
    assert found["slow_nodes"] == ["n3"]
    assert found["pairs"][2] == {
        "nodes": ["n3", "n1"],
        "bytes_per_s": None,
        "ports_bytes_per_s": None,
        "slow": True,
        "error": "Connection reset",
    }


def test_speeds_stand_beside_what_the_ports_carry():
    known = Pairs("two.txt", {("n1", "n2"): 360e9, ("n2", "n3"): 350e9}, carried={
        ("n1", "n2"): 400e9, ("n2", "n3"): 0.0,
    })  # fmt: skip
    assert pairs_report.lines(known).lines() == [
        "PAIR     GB/s    OF PORTS  VERDICT",
        "n2 - n3  350.00  -         good",
        "n1 - n2  360.00  90%       good",
    ]
    assert len(list(pairs_report.notes(known))) == 1
    slow = Pairs("two.txt", {("n1", "n2"): 40e9}, carried={("n1", "n2"): 400e9})
    first, _ = pairs_report.notes(slow)
    assert first.startswith("the fastest pair reaches 10% of what its ports carry")


def test_a_very_slow_pair_is_told_from_one_that_did_not_get_through():
    speeds = {("n1", "n2"): 2.4e6, ("n1", "n3"): 0.0, ("n2", "n3"): 0.9e9}
    rows = pairs_report.lines(Pairs("three.txt", speeds)).rows
    assert [row[1] for row in rows] == ["0.00", "0.0024", "0.90"]
