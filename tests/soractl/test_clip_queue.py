import json
import threading
import time

import pytest

from soractl import clip_queue
from soractl.clip_queue import Reading, read_clips
from soractl.journal import Journal
from soractl.nodes import Node
from soractl.remote import NodeResult

NODES = [Node("n1"), Node("n2"), Node("n3")]
TASKS = [{"path": f"{number}.mp4", "num_frames": None} for number in range(100)]
READING = Reading("check", workers=1, stuck_after_s=10)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(clip_queue, "PAUSE_S", 0)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "log.jsonl") as journal:
        yield journal


def said(paths):
    return "".join(
        f"{json.dumps({'path': path, 'ok': True, 'reason': '', 'seconds': 0.1})}\n"
        for path in paths
    )


def asked(request):
    return [json.loads(line)["path"] for line in request.stdin.splitlines()]


def well(node, request, deadline_s):
    time.sleep(0.001)
    return NodeResult(node, stdout=said(asked(request)), exit_code=0)


def logged(journal):
    return [json.loads(line) for line in journal.file.read_text().splitlines()]


def read(journal, remote, tasks=TASKS):
    shown = []
    lost = read_clips(tasks, NODES, remote, reading=READING, journal=journal, show=shown.append)
    return lost, shown


def test_every_clip_is_read_once_whoever_reads_it(journal):
    lost, shown = read(journal, well)
    entries = logged(journal)
    assert lost == {}
    assert sorted(entry["path"] for entry in entries) == sorted(task["path"] for task in TASKS)
    assert {entry["node"] for entry in entries} <= {"n1", "n2", "n3"}
    assert (shown[-1].done, shown[-1].total, shown[-1].failed) == (100, 100, 0)


def test_what_a_lost_node_has_not_answered_is_read_by_others(journal):
    others_wait = threading.Event()

    def remote(node, request, deadline_s):
        if node.name != "n2":
            others_wait.wait(5)
            return well(node, request, deadline_s)
        if others_wait.is_set():
            return NodeResult(node, error="unreachable: no route")
        others_wait.set()
        some = asked(request)[:3]
        return NodeResult(node, stdout=said(some) + '{"path": "half', error="unreachable: reset")

    lost, _ = read(journal, remote)
    entries = logged(journal)
    assert lost in ({"n2": "unreachable: no route"}, {})
    assert sorted(entry["path"] for entry in entries) == sorted(task["path"] for task in TASKS)
    assert sum(entry["node"] == "n2" for entry in entries) == 3


def test_when_all_nodes_are_lost_the_clips_are_left(journal):
    def remote(node, request, deadline_s):
        return NodeResult(node, stderr="No module named soractl\n", exit_code=1)

    lost, _ = read(journal, remote)
    assert lost == dict.fromkeys(("n1", "n2", "n3"), "No module named soractl")
    assert logged(journal) == []


def test_what_is_in_the_journal_is_not_read_again(journal):
    journal.add(
        {"path": task["path"], "ok": bool(number), "reason": "", "seconds": 1, "node": "n9"}
        for number, task in enumerate(TASKS[:60])
    )
    _, shown = read(journal, well)
    assert [entry["node"] for entry in logged(journal)[:60]] == ["n9"] * 60
    assert len(logged(journal)) == 100
    assert (shown[-1].done, shown[-1].failed) == (100, 1)


def test_what_nobody_asked_for_is_no_answer(journal):
    def remote(node, request, deadline_s):
        noise = "Welcome to the node\n" + said(["other.mp4"])
        return NodeResult(node, stdout=noise + said(asked(request)), exit_code=0)

    read(journal, remote, TASKS[:2])
    assert [entry["path"] for entry in logged(journal)] == ["0.mp4", "1.mp4"]


def test_clips_travel_over_stdin_and_are_read_in_the_shared_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    request = READING.request(Node("n1"), TASKS[:1])
    assert request.stdin == '{"path": "0.mp4", "num_frames": null}\n'
    assert request.argv[4] == str(tmp_path)
    assert "0.mp4" not in " ".join(request.argv)
