from dataclasses import replace

from soractl.errors import Fault, FaultKind
from soractl.health import health_report as report
from soractl.health.check import CONTEXTS, Finding, Level
from soractl.health.examine import CHECKS, Health, NodeHealth, Past, Since
from soractl.remote.nodes import Node, NodeSource

BY_ID = {check.id: check for check in CHECKS}


def finding(name, level=None, item="", reason="why"):
    check = BY_ID[name]
    return Finding(check, level or check.level, item, reason)


def health(*rows, notes=()):
    source = NodeSource(tuple(row.node for row in rows), "four.txt")
    return Health(source, rows, CHECKS[:3], notes, 0.84)


ECC = finding("gpu.ecc_mode", item="3", reason="ECC: Disabled, expected Enabled")
UNKNOWN = [finding(name, Level.UNKNOWN, reason="not reported") for name in BY_ID][:3]
SILENCED = finding("gpu.remap_rows", item="0", reason="rows: 9, at most 8"), "RMA 4411"
ROUND = health(
    NodeHealth(Node("n1"), (ECC, finding("gpu.ecc_mode", item="5", reason=ECC.reason), *UNKNOWN)),
    NodeHealth(Node("n2"), (finding("kernel.version", reason="kernel: 6.1, most have 6.8"),)),
    NodeHealth(Node("n3"), (finding("disk.space", Level.GOOD, "/"), *UNKNOWN), (SILENCED,)),
    NodeHealth(Node("n4"), fault=Fault(FaultKind.UNREACHABLE, "no route")),
    notes=("the silence of ib ended on 2026-11-01: new switch",),
)
GOOD = health(NodeHealth(Node("n1"), (finding("disk.space", Level.GOOD, "/"),)))


def test_equal_findings_are_one_row_the_gravest_first():
    assert report.table(ROUND).lines() == [
        "VERDICT  CHECK           NODES   FOUND",
        "BAD      gpu.ecc_mode    n1      GPU 3,5: ECC: Disabled, expected Enabled",
        "warning  kernel.version  n2      kernel: 6.1, most have 6.8 (fleet)",
        "unknown  3 checks        n[1,3]  not reported",
    ]
    assert report.lines(GOOD) == ["nothing is bad"]


def test_notes_name_lost_nodes_remedies_silences_and_the_count():
    assert list(report.notes(ROUND)) == [
        "n4: unreachable: no route",
        f"gpu.ecc_mode: {BY_ID['gpu.ecc_mode'].remedy}",
        f"kernel.version: {BY_ID['kernel.version'].remedy}",
        "the silence of ib ended on 2026-11-01: new switch",
        "silenced: gpu.remap_rows: RMA 4411",
        "four.txt: 1 BAD, 1 with warnings, 1 good, 1 unreachable by 3 checks in 0.8 s; "
        "6 verdicts unknown",
    ]
    assert ROUND.exit_code == 1


def test_nagios_has_exit_codes_of_its_own():
    code, [first, *rows] = report.nagios(ROUND)
    assert (code, len(rows)) == (2, 3)
    assert first.startswith("HEALTH CRITICAL - four.txt: 1 BAD")
    assert first.endswith("| bad=1 warning=1 unknown=1")
    assert report.nagios(GOOD)[0] == 0
    assert report.nagios(health(ROUND.rows[1]))[0] == 1
    assert report.nagios(health(ROUND.rows[3]))[0] == 3


def test_json_has_what_is_not_good_and_the_names_of_what_is():
    third = report.as_json(ROUND)["nodes"][2]
    assert third["findings"][-1] == {
        "check": "gpu.remap_rows",
        "verdict": "warning",
        "source": "threshold",
        "item": "0",
        "reason": "rows: 9, at most 8",
        "remedy": BY_ID["gpu.remap_rows"].remedy,
        "silenced": "RMA 4411",
    }
    assert (third["verdict"], third["good"]) == ("good", ["disk.space"])
    assert report.as_json(ROUND)["nodes"][3] == {
        "node": "n4",
        "error": "unreachable: no route",
        "verdict": None,
        "elapsed_s": 0.0,
        "findings": [],
        "good": [],
    }


def test_the_list_has_a_row_and_an_object_for_each_check():
    assert len(report.list_table(CHECKS).rows) == len(CHECKS)
    [first, *_] = report.list_json(CHECKS)["checks"]
    assert (first["check"], first["severity"], first["contexts"]) == ("gpu.driver", "BAD", CONTEXTS)


def test_a_look_with_a_past_shows_since_when_and_how_often():
    now = 1_796_040_000
    past = Past(
        now,
        {
            ("n1", "gpu.ecc_mode", "3"): Since(now - 2 * 86400 - 5, times=1),
            ("n1", "gpu.ecc_mode", "5"): Since(now - 3 * 3600, times=4),
            ("n2", "kernel.version", ""): Since(now - 90, is_first_look=True),
            ("n3", "gpu.remap_rows", "0"): Since(now, is_first_look=True),
        },
    )
    seen = replace(ROUND, past=past)
    assert report.table(seen).lines() == [
        "VERDICT  CHECK           NODES   SINCE                       FOUND",
        "BAD      gpu.ecc_mode    n1      3 h to 2 d, 4 times in 7 d  GPU 3,5: ECC: Disabled, "
        "expected Enabled",
        "warning  kernel.version  n2      1 min or more               kernel: 6.1, most have 6.8 "
        "(fleet)",
        "unknown  3 checks        n[1,3]                              not reported",
    ]
    assert report.nagios(seen) == report.nagios(ROUND)
    [silenced] = [f for f in report.as_json(seen)["nodes"][2]["findings"] if f["silenced"]]
    assert (silenced["since_unix_s"], silenced["since_first_look"]) == (now, True)
    assert silenced["times_in_7_days"] == 1
