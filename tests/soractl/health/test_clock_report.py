import dataclasses

from soractl.cluster.settings import ClockPolicy
from soractl.errors import Fault, FaultKind
from soractl.health import clock_report
from soractl.health.clock import Measured, Step, judge
from soractl.health.clock_watch import ClockRound, NodeClock
from soractl.health.time_daemon import TimeDaemon
from soractl.remote.nodes import Node, NodeSource, this_machine

CHRONY = TimeDaemon(("chrony",), kept=True, source="10.0.0.1", stratum=3)


def row(name, offset_ms=0.1, steps=(), daemon=CHRONY, **more):
    offset = Measured(offset_ms / 1000, 0.0002)
    verdict = judge(offset, steps, ClockPolicy())
    return NodeClock(Node(name), offset, steps, daemon=daemon, verdict=verdict, **more)


def found(*rows):
    source = NodeSource(tuple(row.node for row in rows), "three.txt")
    return ClockRound(source, rows, ClockPolicy(), (), 0.84)


ROUND = found(
    row("n1", drift_ppm=Measured(0.2, 3.0)),
    row("n2", -350, (Step(Measured(-0.01, 1e-5), 1.8e9),), TimeDaemon(), fine=False),
    row("n3", drift_ppm=Measured(-21.04, 3.0)),
    NodeClock(Node("n4"), fault=Fault(FaultKind.UNREACHABLE, "no route")),
)


def test_the_table():
    assert clock_report.table(ROUND).lines() == [
        "NODE  OFFSET ms  +- ms  DRIFT ppm  STEPS  CLOCK  KEPT BY               NOTE",
        "n1    +0.10      0.20   -          0      good   chrony from 10.0.0.1",
        "n2    -350.00    0.20   -          1      BAD    no time daemon        350.0 ms behind "
        "this machine; stepped back by 10.0 ms; without python3 steps below 25 ms are not seen",
        "n3    +0.10      0.20   -21.0      0      good   chrony from 10.0.0.1",
        "n4    -          -      -          -      -      -                     "
        "unreachable: no route",
    ]


def test_what_concerns_more_than_one_node_and_the_exit_code():
    assert list(clock_report.notes(ROUND)) == [
        "farthest apart: n1 and n2, 350.1 ms",
        "three.txt: 2 good, 1 BAD, 1 unreachable in 0.8 s",
    ]
    assert ROUND.exit_code == 1


def test_nodes_that_all_differ_alike_point_at_this_machine():
    ahead = found(*(row(f"n{number}", 400) for number in range(3)))
    assert next(clock_report.notes(ahead)) == (
        "most nodes agree with each other: this machine is off by -400.00 (+- 0.20) ms"
    )


def test_settings_are_offered_only_where_something_is_to_mend():
    assert clock_report.remedies(found(row("n1"), row("n2"))) == []
    [title, *_] = clock_report.remedies(ROUND)
    assert title.startswith("on n2, in /etc/chrony/chrony.conf")


def test_this_machine_is_not_its_own_server():
    here = dataclasses.replace(row("n2"), node=this_machine(), daemon=TimeDaemon(()))
    lines = clock_report.remedies(found(here))
    assert [line for line in lines if line.startswith("on ")] == [
        f"on {this_machine().name}, beside the pool or server lines that are there:"
    ]
    assert not any("server" in line for line in lines[1:])


def test_json_has_units_and_null_for_what_is_not_known():
    second, last = clock_report.as_json(ROUND)["nodes"][1::2]
    assert second == {
        "node": "n2",
        "verdict": "BAD",
        "reasons": ("350.0 ms behind this machine", "stepped back by 10.0 ms"),
        "notes": (),
        "offset_s": -0.35,
        "offset_bound_s": 0.0002,
        "steps": [{"unix_s": 1.8e9, "size_s": -0.01, "bound_s": 1e-5}],
        "drift_ppm": None,
        "drift_bound_ppm": None,
        "slew_ppm": None,
        "daemon": {
            "names": [],
            "kept": None,
            "source": "",
            "stratum": None,
            "frequency_ppm": None,
            "error_s": None,
        },
        "sees_small_steps": False,
        "error": None,
    }
    assert (last["verdict"], last["offset_s"], last["error"]) == (
        None,
        None,
        "unreachable: no route",
    )
