import json
import os
import signal
import threading
import time

import pytest

from soractl.clips.clip_queue import ClipReading, QueueTiming, Readers, read_clips
from soractl.clips.journal import Journal
from soractl.errors import INTERRUPTED, Fault, FaultKind, SoractlError
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

NODES = [Node("n1"), Node("n2"), Node("n3")]
TASKS = [{"path": f"{number}.mp4", "num_frames": None} for number in range(100)]
READING = ClipReading("check", workers=1, stuck_after_s=10)
NO_PAUSE = QueueTiming(pause_s=0)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "log.jsonl") as journal:
        yield journal


def answers(paths):
    return "".join(
        f"{json.dumps({'path': path, 'ok': True, 'reason': '', 'seconds': 0.1})}\n"
        for path in paths
    )


def asked(request):
    return [json.loads(line)["path"] for line in request.stdin.splitlines()]


def well(node, request, deadline_s):
    time.sleep(0.001)
    return NodeResult(node, stdout=answers(asked(request)), exit_code=0)


def logged(journal):
    return [json.loads(line) for line in journal.file.read_text().splitlines()]


def read(journal, remote, tasks=TASKS):
    shown = []
    readers = Readers(NODES, remote, READING, timing=NO_PAUSE)
    lost = read_clips(tasks, readers, journal, shown.append)
    return lost, shown


def test_every_clip_is_read_once_by_any_of_the_nodes(journal):
    lost, shown = read(journal, well)
    entries = logged(journal)
    assert lost == {}
    assert sorted(entry["path"] for entry in entries) == sorted(task["path"] for task in TASKS)
    assert {entry["node"] for entry in entries} <= {"n1", "n2", "n3"}
    assert (shown[0].done, shown[0].total) == (0, 100)  # before any answer
    assert (shown[-1].done, shown[-1].total, shown[-1].failed) == (100, 100, 0)


def test_each_chunk_of_a_node_is_twice_as_long_as_the_one_before_up_to_a_limit(journal):
    asked_for = []

    def remote(node, request, deadline_s):
        asked_for.append(float(request.argv[request.argv.index("--seconds") + 1]))
        return NodeResult(node, stdout=answers(asked(request)[:1]), exit_code=0)

    readers = Readers(NODES[:1], remote, READING, timing=NO_PAUSE)
    read_clips(TASKS[:7], readers, journal, lambda count: None)
    assert asked_for == [1, 2, 4, 8, 10, 10, 10]


def test_after_ctrl_c_answers_on_their_way_are_recorded_and_no_clips_are_begun(journal):
    closed = threading.Event()
    begun = []

    def remote(node, request, deadline_s):
        begun.append(node.name)
        if len(begun) == len(NODES):
            os.kill(os.getpid(), signal.SIGINT)
        closed.wait(60)
        return NodeResult(
            node, stdout=answers(asked(request)[:2]) + '{"path": "half', exit_code=143
        )

    readers = Readers(NODES, remote, READING, close=closed.set, timing=QueueTiming(drain_s=60))
    lost = read_clips(TASKS, readers, journal, lambda count: None)
    assert lost == dict.fromkeys(("n1", "n2", "n3"), INTERRUPTED)
    assert len(logged(journal)) == 6
    assert len(begun) == 3


def test_a_job_log_for_which_there_is_no_room_ends_the_work(small_disk):
    disk = small_disk("4k")
    with (
        pytest.raises(SoractlError, match=r"log.jsonl: No space left on device") as fault,
        Journal(disk / "log.jsonl") as journal,
    ):
        read(journal, well)
    assert fault.value.exit_code == 1
    with Journal(disk / "log.jsonl") as journal:
        entries = logged(journal)
    assert 0 < len(entries) < 100


def test_clips_that_a_lost_node_did_not_answer_are_read_by_other_nodes(journal):
    others_wait = threading.Event()

    def remote(node, request, deadline_s):
        if node.name != "n2":
            others_wait.wait(5)
            return well(node, request, deadline_s)
        if others_wait.is_set():
            return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "no route"))
        others_wait.set()
        some = asked(request)[:3]
        return NodeResult(
            node,
            stdout=answers(some) + '{"path": "half',
            fault=Fault(FaultKind.UNREACHABLE, "reset"),
        )

    lost, _ = read(journal, remote)
    entries = logged(journal)
    assert lost in ({"n2": Fault(FaultKind.UNREACHABLE, "no route")}, {})
    assert sorted(entry["path"] for entry in entries) == sorted(task["path"] for task in TASKS)
    assert sum(entry["node"] == "n2" for entry in entries) == 3


def test_clips_are_left_if_all_nodes_are_lost(journal):
    def remote(node, request, deadline_s):
        return NodeResult(node, stderr="No module named soractl\n", exit_code=1)

    lost, _ = read(journal, remote)
    no_module = Fault(FaultKind.FAILED, "No module named soractl")
    assert lost == dict.fromkeys(("n1", "n2", "n3"), no_module)
    assert logged(journal) == []


def test_clips_in_the_journal_are_not_read_again(journal):
    journal.add(
        {"path": task["path"], "ok": bool(number), "reason": "", "seconds": 1, "node": "n9"}
        for number, task in enumerate(TASKS[:60])
    )
    _, shown = read(journal, well)
    assert [entry["node"] for entry in logged(journal)[:60]] == ["n9"] * 60
    assert len(logged(journal)) == 100
    assert (shown[-1].done, shown[-1].failed) == (100, 1)


def test_answers_about_clips_that_were_not_asked_for_are_ignored(journal):
    def remote(node, request, deadline_s):
        noise = "Welcome to the node\n" + answers(["other.mp4"])
        return NodeResult(node, stdout=noise + answers(asked(request)), exit_code=0)

    read(journal, remote, TASKS[:2])
    assert [entry["path"] for entry in logged(journal)] == ["0.mp4", "1.mp4"]


def test_clips_travel_over_stdin_and_are_read_in_the_shared_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    request = READING.request(Node("n1"), TASKS[:1], 4.0)
    assert request.stdin == '{"path": "0.mp4", "num_frames": null}\n'
    assert request.argv[4] == str(tmp_path)
    assert "0.mp4" not in " ".join(request.argv)
