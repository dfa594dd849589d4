import json
from pathlib import Path

import pytest

from soractl.diagnosis import evidence
from soractl.diagnosis.culprit import VerdictKind
from soractl.diagnosis.evidence import ask_ras, collect
from soractl.diagnosis.examination import started
from soractl.errors import ExitCode, SoractlError
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from trainer.atomic_files import read_json
from trainer.run_dir import RunDir

RECORDED = Path(__file__).parents[2] / "recorded/ras"


@pytest.mark.slow  # a rank that gives no answer is waited for twice
def test_evidence_is_on_disk_with_a_manifest_that_is_written_last(start, record, tmp_path):
    start(0, "answers")
    start(1, "lock")
    run = RunDir(tmp_path)
    attempt = run.attempts()[-1]
    with Connections() as remote:
        found = collect(run, attempt, record, remote)
        again = collect(run, attempt, record, remote)
    assert (found.verdict.kind, found.verdict.ranks) == (VerdictKind.SILENT, (1,))
    assert "train.py" in found.verdict.where[0]  # though it gave no answer itself
    assert found.seconds < 60  # 10 s on a quiet machine
    assert again.folder != found.folder
    assert found.folder.parent == attempt.evidence
    manifest = read_json(found.folder / "manifest.json")
    files = {"verdict.json", "look-1/rank-0.json", "look-2/rank-0.json", "here.txt"}
    assert manifest["files"].keys() == files | {"stacks-1.json", "stacks-2.json"}
    assert all((found.folder / f).stat().st_size == n for f, n in manifest["files"].items())
    written = json.loads((found.folder / "verdict.json").read_text())
    assert written == json.loads(json.dumps(found.as_json()))
    assert written["verdict"]["text"] == str(found.verdict)


def test_what_cannot_be_asked_is_missing_in_it_and_no_error(record, tmp_path, monkeypatch):
    run = RunDir(tmp_path)

    def remote(node, request, deadline_s):
        return NodeResult(node, stderr="gone", exit_code=255)

    monkeypatch.setattr(evidence, "STACKS_PAUSE_S", 0)
    found = collect(run, run.attempts()[-1], record, remote)
    assert found.verdict.kind is VerdictKind.UNSEEN
    assert (found.offsets, found.ras, found.links) == ({}, None, [])
    assert (found.folder / "manifest.json").exists()


def test_the_first_node_that_answers_speaks_for_all_of_nccl():
    text = (RECORDED / "ras-hang.json").read_text()

    def remote(node, request, deadline_s):
        answers = node.name == "n2"
        return NodeResult(node, stdout=text if answers else "", exit_code=0 if answers else 1)

    answer, communicators = ask_ras([Node("n1"), Node("n2")], remote)
    assert answer == text
    assert [rank.rank for rank in communicators[0].lagging] == [1]


def test_a_run_that_was_never_started_is_refused(tmp_path):
    with pytest.raises(SoractlError, match="was never started") as error:
        started(RunDir(tmp_path / "001-smoke"))
    assert error.value.exit_code == ExitCode.NOTHING_SUITABLE
