import pytest

from soractl.doctor import golden
from soractl.errors import SoractlError
from soractl.health.check import Level
from soractl.health.examine import NodeAnswer, judge_nodes
from soractl.health.facts import Facts
from soractl.launch.preflight import CHECKS
from soractl.remote.nodes import Node


def fleet(torch="2.13.0", kernel="6.8.0", cards=("mlx5_0/1", "mlx5_1/1")):
    items = {
        "version": {"torch": {"version": torch}, "trainer code": {"version": "abc"}},
        "system": {"": {"kernel/osrelease": kernel}},
        "ib": {card: {"fw_ver": "28.41.1000"} for card in cards},
    }
    return [NodeAnswer(Node(f"n{i}"), Facts(items)) for i in (1, 2, 3)]


def bad(answers, recorded):
    rows = judge_nodes(answers, CHECKS, recorded=recorded)
    rows = golden.with_missing(rows, answers, CHECKS, recorded)
    levels = (Level.BAD, Level.WARNING)
    return {
        (finding.check.id, finding.item, finding.reason)
        for row in rows
        for finding in row.findings
        if finding.level in levels and finding.check.source == "fleet"
    }


@pytest.fixture
def recorded(tmp_path):
    golden.record(fleet(), CHECKS, tmp_path / "golden.json")
    return golden.read(tmp_path / "golden.json")


def test_what_was_recorded_is_good(recorded):
    assert recorded["same.versions"] == {"torch": "2.13.0"}
    assert bad(fleet(), recorded) == set()


def test_a_change_that_all_nodes_share_is_found(recorded):
    assert bad(fleet(torch="2.14.0", kernel="6.8.1"), recorded) == {
        ("same.versions", "torch", "2.14.0, recorded was 2.13.0"),
        ("kernel.version", "", "kernel: 6.8.1, recorded was 6.8.0"),
    }


def test_a_card_that_is_gone_from_all_nodes_is_found_once(recorded):
    gone = bad(fleet(cards=("mlx5_0/1",)), recorded)
    assert gone == {("ib.firmware", "mlx5_1/1", "not there; it was recorded")}


@pytest.mark.parametrize("text", ["", "[]", '{"layout": 1}', '{"layout": 1, "values": {"a": 7}}'])
def test_a_file_of_something_else_is_an_error(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(SoractlError, match="is no recorded state"):
        golden.read(tmp_path / "other.json")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(SoractlError, match="cannot write"):
        golden.record(fleet(), CHECKS, tmp_path / "none/golden.json")
