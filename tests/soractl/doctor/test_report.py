import json

from soractl.doctor import report
from soractl.doctor.examine import Readiness
from soractl.errors import Fault, FaultKind
from soractl.health.examine import Health, NodeAnswer, judge_nodes
from soractl.health.facts import Facts
from soractl.launch.preflight import CHECKS
from soractl.remote.nodes import Node, NodeSource

ITEMS = {
    "ready": {"": {"says": "ok"}},
    "version": {"python": {"version": "3.11.7"}, "NCCL": {"version": "none"}},
    "launch": {"": {"folder": "/shared/runs", "shared": "yes", "writes": "yes"}},
    "wandb": {"": {"login": "no"}},
}
LOST = Fault(FaultKind.UNREACHABLE, "n3:22: Connection refused")


def readiness(stage=None):
    nodes = tuple(Node(f"n{i}") for i in (1, 2, 3))
    odd = {**ITEMS, "launch": {"": {**ITEMS["launch"][""], "writes": "no"}}}
    answers = [
        NodeAnswer(nodes[0], Facts(ITEMS)),
        NodeAnswer(nodes[1], Facts(odd)),
        NodeAnswer(nodes[2], fault=LOST),
    ]
    rows = judge_nodes(answers, CHECKS)
    shared = {"same.versions": {"python": "3.11.7", "NCCL": "none"}}
    health = Health(NodeSource(nodes, "nodes.txt"), tuple(rows), CHECKS, (), 1.23)
    return Readiness(health=health, shared=shared, stage=stage)


def test_a_line_for_what_is_well_and_a_remedy_for_what_is_not():
    [table] = report.lines(readiness())
    assert [row[:4] for row in table.rows] == [
        ("BAD", "ssh", "n3", "unreachable: n3:22: Connection refused"),
        ("good", "ssh", "n[1-2]", "answer in one round trip"),
        ("BAD", "setup.wandb", "n[1-2]", "no login for Weights & Biases"),
        ("good", "software", "n[1-2]", "python 3.11.7; 1 check"),
        ("BAD", "folder.writable", "n2", "/shared/runs cannot be written there"),
    ]
    assert all(bool(row[4]) == (row[0] != "good") for row in table.rows)
    assert table.rows[0][4] == "`ssh n3 true` by hand says more"


def test_the_page_fits_a_narrow_terminal():
    [table] = report.lines(readiness())
    assert max(map(len, table.lines(60))) <= 60
    assert "REMEDY: `wandb login` on the head node" in "\n".join(table.lines(60))


def test_every_check_has_a_subject():
    kinds = {kind for kinds in report.SUBJECTS.values() for kind in kinds}
    assert {check.id.partition(".")[0] for check in CHECKS} == kinds


def test_notes_count_and_say_what_was_not_looked_at():
    assert list(report.notes(readiness())) == [
        "--stage STAGE looks at its weights, clips and room for checkpoints too",
        f"nodes.txt: 2 BAD, 1 unreachable by {len(CHECKS)} checks in 1.2 s",
    ]
    assert len(list(report.notes(readiness("stage1")))) == 1


def test_json_has_every_finding_and_what_is_shared():
    values = json.loads(json.dumps(report.as_json(readiness("stage1"))))
    assert (values["stage"], values["shared"]["same.versions"]["python"]) == ("stage1", "3.11.7")
    assert [node["verdict"] for node in values["nodes"]] == ["BAD", "BAD", None]


def test_each_lost_node_has_its_own_reason_and_remedy():
    other = Fault(FaultKind.FAILED, "no bash: it is not there")
    nodes = (Node("n3"), Node("n4"))
    answers = [NodeAnswer(nodes[0], fault=LOST), NodeAnswer(nodes[1], fault=other)]
    rows = tuple(judge_nodes(answers, CHECKS))
    health = Health(NodeSource(nodes, "nodes.txt"), rows, CHECKS, (), 1.23)
    [table] = report.lines(Readiness(health=health, shared={}, stage=None))
    assert [row[2:] for row in table.rows[:2]] == [
        ("n3", "unreachable: n3:22: Connection refused", "`ssh n3 true` by hand says more"),
        ("n4", "no bash: it is not there", "`ssh n4 true` by hand says more"),
    ]
