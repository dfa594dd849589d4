"""Answers of `dcgmi diag -j` in the forms that are public, replayed: none of them ran on a GPU."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from soractl.doctor.dcgm import answer_of, diagnose
from soractl.errors import FaultKind
from soractl.health.check import Level
from soractl.health.checks_gpu import DCGM
from soractl.health.examine import judge_nodes
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

PROGRAM = Path(__file__).parents[3] / "soractl/doctor/dcgm.sh"


def result(gpu, status, *warnings):
    """Of DCGM 4: an entity, and warnings with an id, a category and a severity."""
    listed = [{"warning": text, "error_severity": severity} for text, severity in warnings]
    found = {"entity_group": "GPU", "entity_group_id": 1, "entity_id": gpu, "status": status}
    return {**found, "warnings": listed} if listed else found


def printed(*tests, root="DCGM Diagnostic", log=""):
    """What dcgmi prints for tests, a name and its results each."""
    category = {
        "category": "Deployment",
        "tests": [{"name": name, "results": results} for name, *results in tests],
    }
    return log + json.dumps({root: {"test_categories": [category]}, "metadata": {}})


def judged(answer, section="dcgm", code=0):
    node = answer_of(NodeResult(Node("n1"), f"{answer}\n=== {section} {code}\n", exit_code=0))
    [row] = judge_nodes([node], DCGM)
    bad = (f for f in row.findings if f.level is not Level.GOOD)
    return {(f.check.id, f.level, f"{f.item}: {f.reason}" if f.item else f.reason) for f in bad}


PERSISTENCE = ("Persistence mode for GPU 1 is disabled.", 5)
CASES = {
    "all pass": (printed(("software", result(0, "Pass"), result(1, "Pass"))), set()),
    "one fails": (
        printed(("memory", result(0, "Pass"), result(1, "Fail", ("Page retirement", 2)))),
        {("gpu.dcgm", Level.BAD, "memory of GPU 1: Page retirement")},
    ),
    "one fails and says nothing": (
        printed(("pcie", result(3, "Fail"))),
        {("gpu.dcgm", Level.BAD, "pcie of GPU 3: Fail")},
    ),
    "a setting fails": (
        printed(("software", result(1, "Fail", PERSISTENCE))),
        {("gpu.dcgm_warning", Level.WARNING, f"software of GPU 1: {PERSISTENCE[0]}")},
    ),
    "a setting and a GPU fail": (
        printed(("software", result(1, "Fail", PERSISTENCE, ("Xid 79", 2)))),
        {("gpu.dcgm", Level.BAD, f"software of GPU 1: {PERSISTENCE[0]}; Xid 79")},
    ),
    "one warning that is no list": (
        printed(("memory", {"gpu_id": 1, "status": "Fail", "warnings": "Page retirement"})),
        {("gpu.dcgm", Level.BAD, "memory of GPU 1: Page retirement")},
    ),
    "of DCGM 3": (
        printed(
            ("Denylist", {"gpu_ids": "0,1", "status": "PASS"}),
            ("PCIe", {"gpu_ids": "1", "status": "FAIL", "warnings": ["low bandwidth"]}, None),
            ("Inforom", {"gpu_ids": "1", "status": "WARN", "warnings": ["checksum"]}),
            root="DCGM GPU Diagnostic",
            log="WARNING: an older host engine\n",
        ),
        {
            ("gpu.dcgm", Level.BAD, "PCIe of GPU 1: low bandwidth"),
            ("gpu.dcgm_warning", Level.WARNING, "Inforom of GPU 1: checksum"),
        },
    ),
}


def unknown(reason):
    return {(check.id, Level.UNKNOWN, reason) for check in DCGM}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_in_a_public_form_is_judged(name):
    answer, findings = CASES[name]
    assert judged(answer) == findings


@pytest.mark.parametrize(
    ("answer", "section", "code", "reason"),
    [
        ("", "absent", 0, "there is no dcgmi"),
        ("7, python", "used", 0, "its GPUs are in use by 7, python"),
        ("NVML: Driver Not Loaded", "used", 9, "nvidia-smi: NVML: Driver Not Loaded"),
        ("", "dcgm", 124, "dcgmi diag took too long and was ended"),
        ("", "dcgm", 127, "dcgmi diag ran no test: exit code 127"),
        (
            "Error: unable to connect to host engine",
            "dcgm",
            1,
            "dcgmi diag ran no test: Error: unable to connect to host engine",
        ),
        (
            "2026-11-30 12:00:00 ERROR no host engine",
            "dcgm",
            1,
            "dcgmi diag ran no test: 2026-11-30 12:00:00 ERROR no host engine",
        ),
        (
            '{"DCGM Diagnostic": {"test_categories": true}}',
            "dcgm",
            1,
            'dcgmi diag ran no test: {"DCGM Diagnostic": {"test_categories": true}}',
        ),
        (
            '{"DCGM Diagnostic": {"runtime_error": "no EUD"}}',
            "dcgm",
            1,
            "dcgmi diag ran no test: no EUD",
        ),
        (
            printed(("pcie", result(0, "Skip"), result(1, "Not Run"))),
            "dcgm",
            0,
            f"dcgmi diag ran no test: {printed(('pcie', result(0, 'Skip'), result(1, 'Not Run')))}"[
                :184
            ],
        ),
    ],
)
def test_without_a_test_that_ran_all_is_unknown(answer, section, code, reason):
    assert judged(answer, section, code) == unknown(reason)


def test_a_word_that_dcgm_does_not_have_is_unknown():
    [only] = {level for _, level, _ in judged(printed(("pcie", result(0, "Perhaps"))))}
    assert only is Level.UNKNOWN


def test_a_node_that_says_nothing_is_a_fault():
    assert answer_of(NodeResult(Node("n1"), "", exit_code=0)).fault.kind is FaultKind.FAILED


@pytest.fixture
def programs(tmp_path):
    """A folder with this machine's programs except dcgmi, which would run for minutes."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for program in Path("/usr/bin").iterdir():
        if program.name != "dcgmi":
            (folder / program.name).symlink_to(program)
    return folder


@pytest.fixture
def run(tmp_path, programs):
    """The node's program with a dcgmi that notes its arguments, and a driver that prints this."""

    def play(used, *, has_dcgmi=True):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{used}' | grep .\nexit 0\n")
        note = f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{{}}'\n"
        (tmp_path / "dcgmi").write_text(note)
        (tmp_path / "dcgmi").chmod(0o755 if has_dcgmi else 0o644)
        (tmp_path / "nvidia-smi").chmod(0o755)
        answer = subprocess.run(
            ["sh", PROGRAM, "2", "60"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": f"{tmp_path}:{programs}"},
        )
        asked = tmp_path / "asked"
        return answer.stdout, asked.read_text() if asked.exists() else None

    return play


def test_an_idle_node_runs_the_level_that_is_asked_for(run):
    assert run("") == ("{}\n\n=== dcgm 0\n", "diag -r 2 -j\n")


def test_nothing_is_started_beside_a_process_or_without_dcgmi(run):
    assert run("7, python") == ("7, python\n=== used 0\n", None)
    assert run("", has_dcgmi=False) == ("=== absent 0\n", None)


def test_nodes_without_dcgmi_are_unknown_and_no_fault(workplace, programs, monkeypatch):
    monkeypatch.setenv("PATH", str(programs))
    workplace.write("hostfiles/here.txt", f"{os.uname().nodename}\n")
    found = diagnose("hostfiles/here.txt", 1, {**os.environ})
    [row] = found.rows
    assert (row.fault, found.exit_code) == (None, 0)
    assert {f.reason for f in row.findings} == {"there is no dcgmi"}
