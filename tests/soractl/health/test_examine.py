import os
from datetime import date
from pathlib import Path

import pytest

from soractl.cluster.settings import Silence
from soractl.errors import Fault, FaultKind, SoractlError
from soractl.health.check import Level
from soractl.health.examine import (
    CHECKS,
    Health,
    NodeHealth,
    answer_of,
    check_health,
    choose,
    judge_nodes,
    silences,
)
from soractl.remote.nodes import Node, NodeSource
from soractl.remote.requests import NodeResult

H200 = Path(__file__).parents[2] / "recorded" / "h200-node" / "health-probe.txt"
LOST = Fault(FaultKind.UNREACHABLE, "no route")


def results(answer, *changes):
    """A node for each change of the answer, and a good one before."""
    texts = [answer, *(answer.replace(*change) for change in changes)]
    nodes = (NodeResult(Node(f"n{i}"), text, exit_code=0) for i, text in enumerate(texts, 1))
    return [answer_of(node) for node in nodes]


def ids(rows, level=Level.BAD):
    return [[f.check.id for f in row.findings if f.level is level] for row in rows]


def test_a_good_fleet_has_nothing_that_is_bad(answer):
    rows = judge_nodes(results(answer, ("", "")), choose((), (), "periodic"))
    assert [row.worst for row in rows] == [Level.GOOD] * 2
    assert ids(rows, Level.UNKNOWN) == [[], []]


def test_a_real_node_at_work_is_judged_as_it_was():
    node = answer_of(NodeResult(Node("vm"), H200.read_text(), exit_code=0))
    [row] = judge_nodes([node], choose((), (), "periodic"))
    assert {f.check.id: f.level for f in row.findings if f.level is not Level.GOOD} == {
        "limits.files": Level.WARNING,
        "time.daemon": Level.WARNING,
        "net.ofed": Level.UNKNOWN,
        "memory.corrupted": Level.UNKNOWN,
    }


def test_a_node_is_compared_with_the_others(answer):
    mtu = ("eth\teno1\tmtu\t9000", "eth\teno1\tmtu\t1500")
    version = ("580.159.04", "570.86.15")
    rows = judge_nodes(results(answer, ("", ""), mtu, version), CHECKS)
    assert [name for name in ids(rows)[2] if name.startswith("eth")] == ["eth.mtu"]
    [finding] = [f for f in rows[2].findings if f.check.id == "eth.mtu"]
    assert (finding.item, finding.reason) == ("eno1", "MTU: 1500, most have 9000")
    assert "gpu.driver_version" in ids(rows, Level.WARNING)[3]


def test_two_nodes_that_differ_have_no_majority(answer):
    rows = judge_nodes(
        results(answer, ("6.8.0-60-generic", "6.8.0-61-generic")),
        choose(("kernel.version",), (), "periodic"),
    )
    assert [[f.reason for f in row.findings] for row in rows] == [
        ["nodes differ, and no value has a majority"]
    ] * 2


def test_what_was_recorded_comes_before_what_most_have(answer):
    [check] = choose(("kernel.version",), (), "periodic")
    fleet = results(answer, ("", ""), ("", ""))
    recorded = {"kernel.version": {"": "6.8.0-59-generic"}}
    assert [[f.reason for f in row.findings] for row in judge_nodes(fleet, (check,))] == [[""]] * 3
    rows = judge_nodes(fleet, (check,), recorded=recorded)
    assert {f.reason for row in rows for f in row.findings} == {
        "kernel: 6.8.0-60-generic, recorded was 6.8.0-59-generic"
    }


def test_a_node_that_does_not_answer_is_a_row_and_judges_nobody(answer):
    silent = answer_of(NodeResult(Node("n9"), fault=LOST))
    odd = answer_of(NodeResult(Node("n8"), "sh: not found\n", exit_code=127))
    *_, third, fourth = judge_nodes([*results(answer), silent, odd], CHECKS)
    assert (third.fault, third.worst) == (LOST, Level.UNKNOWN)
    assert fourth.fault.kind is FaultKind.FAILED


def test_checks_are_chosen_by_name_kind_and_occasion():
    def chosen(*arguments):
        return [check.id for check in choose(*arguments)]

    assert chosen(("gpu.xid",), (), "periodic") == ["gpu.xid"]
    assert {name[:3] for name in chosen(("ib", "eth"), (), "launch")} == {"ib.", "eth"}
    assert not {name[:3] for name in chosen((), ("gpu",), "idle")} & {"gpu"}
    assert "gpu.processes" in chosen((), (), "idle")
    assert "gpu.processes" not in chosen((), (), "periodic")


def test_a_check_that_there_is_not_is_an_error_with_the_nearest_name():
    with pytest.raises(SoractlError, match=r"no check gpu\.xyd") as caught:
        choose(("gpu.xyd",), (), "periodic")
    assert caught.value.hint == "did you mean gpu.xid?"


def test_what_is_silenced_does_not_count(answer):
    found = {"gpu.ecc_mode@n[2-5]": Silence(reason="RMA 4411", until=date(2026, 12, 15))}
    muted, notes = silences(found, date(2026, 12, 15))
    broken = ("Current                                        : Enabled", "Current : Disabled")
    rows = judge_nodes(results(answer, broken), choose(("gpu.ecc_mode",), (), "idle"), muted)
    assert notes == ()
    assert rows[1].worst is Level.UNKNOWN
    assert {(f.check.id, reason) for f, reason in rows[1].silenced} == {
        ("gpu.ecc_mode", "RMA 4411")
    }


def test_a_silence_ends_and_needs_a_reason_and_a_check():
    ended = {"gpu": Silence(reason="burn-in", until=date(2026, 11, 1))}
    muted, notes = silences(ended, date(2026, 11, 2))
    assert muted(CHECKS[0], "n1") is None
    assert notes == ("the silence of gpu ended on 2026-11-01: burn-in",)
    with pytest.raises(SoractlError, match="has no reason"):
        silences({"gpu": Silence()}, date(2026, 11, 2))
    with pytest.raises(SoractlError, match="no check gpus"):
        silences({"gpus": Silence(reason="why")}, date(2026, 11, 2))


def test_exit_codes():
    def code(*rows):
        return Health(NodeSource((), "three.txt"), rows, ()).exit_code

    good, lost = NodeHealth(Node("n1")), NodeHealth(Node("n2"), fault=LOST)
    assert (code(good), code(good, lost)) == (0, 4)


@pytest.mark.slow
def test_three_nodes_by_ssh_in_one_look(start_cluster):
    cluster = start_cluster(3)
    config = cluster.folder / "hostfiles/nodes.toml"
    ssh = (f'{k} = "{v}"' for k, v in vars(cluster.options).items() if isinstance(v, str) and v)
    config.write_text("\n".join(["[ssh]", *ssh, '[health.silence."limits"]', 'reason = "test"']))
    with cluster.network():
        found = check_health(
            str(cluster.folder / "hostfiles/nodes.txt"),
            choose((), (), "periodic"),
            deadline_s=60,
            environ=os.environ,
        )
    assert [row.fault for row in found.rows] == [None] * 3
    assert [len({f.item for f in row.findings if f.check.of == "gpu"}) for row in found.rows] == (
        [8] * 3
    )
