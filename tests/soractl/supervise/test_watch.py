import json
import threading
import time

import pytest

from soractl.errors import Fault, FaultKind
from soractl.remote.requests import NodeResult
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.runs.node_states import ask_states
from soractl.runs.record import read_record
from soractl.supervise.watch import Watcher
from trainer.atomic_files import append_jsonl, write_json
from trainer.run_dir import create_run

GONE = "E1130 torch/distributed/elastic: failed (exitcode: {code}) local_rank: 1 (pid: 9) of fn\n"


@pytest.fixture
def run(tmp_path):
    run = create_run(tmp_path, "smoke")
    attempt = run.new_attempt()
    nodes = [
        {"name": name, "user": None, "port": None, "slots": 2, "ranks": 2} for name in ("n1", "n2")
    ]
    plan = {"run_id": str(run.path), "ssh": {}, "nodes": nodes, "started_unix_s": time.time()}
    write_json(attempt.plan, plan)
    config = {"checkpoint": {"every_steps": 5}, "validation": {"every_steps": 8}}
    write_json(attempt.config_json, config)
    return run


@pytest.fixture
def start(run):
    """Starts a watcher whose nodes all answer that two ranks run, at once while `open` is set."""

    def remote(node, request, deadline_s):
        assert start.open.wait(60)
        if node.name in start.watcher.silent:
            return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "no route"))
        text = "=== processes 4\n=== ranks 2\n=== age 9\n=== clock 1000\n"
        return NodeResult(node, stdout=text, exit_code=0)

    def start(look_every_s):
        log = EventLog(run, "supervisor")
        attempt = run.attempts()[0]
        record = read_record(attempt)

        def ask():
            return ask_states(attempt, record, remote)

        start.watcher = Watcher(run, attempt, ask, log, look_every_s=look_every_s)
        start.watcher.silent = set()
        return start.watcher

    start.open = threading.Event()
    start.open.set()
    yield start
    start.open.set()


@pytest.fixture
def watcher(start):
    return start(look_every_s=0.0)


def settled(watcher, asks=2):
    """A look after the nodes were asked so often."""
    end = watcher.nodes.looks + asks
    limit = time.monotonic() + 20
    while watcher.nodes.looks < end and time.monotonic() < limit:
        look = watcher.look()
        time.sleep(0.01)
    return look


def step(run, number):
    run.beat(number, 20, 1)


def test_a_start_becomes_the_wait_for_the_first_step_once_all_nodes_show_ranks(watcher):
    watcher.silent = {"n2"}
    look = settled(watcher)
    assert look.phase == "starting"
    assert {node.name: node.fault for node in look.nodes}["n2"] == "unreachable: no route"
    watcher.silent = set()
    assert settled(watcher).phase == "first step"


@pytest.mark.parametrize(
    ("number", "phase"),
    [(1, "training"), (5, "saving"), (7, "validating"), (10, "saving"), (20, "saving")],
)
def test_the_phase_follows_from_the_step_and_the_settings(run, watcher, number, phase):
    step(run, number)
    assert watcher.look().phase == phase


def test_a_draft_is_a_save_unless_an_earlier_attempt_left_it(run, watcher):
    step(run, 11)
    run.draft_path(0, 10).mkdir()
    assert watcher.look().phase == "training"
    run.draft_path(0, 11).mkdir()
    assert watcher.look().phase == "saving"


def test_a_heartbeat_of_an_earlier_attempt_is_no_step(run, watcher):
    run.beat(9, 20, 0)
    assert watcher.look().step is None


def test_a_killed_rank_is_named_by_its_nodes_log_before_any_exit_code(run, watcher):
    assert watcher.look().failed is None
    run.attempts()[0].node_log("n2").write_text(GONE.format(code=-9))
    assert watcher.look().failed == ("n2", "rank 3: killed by SIGKILL")


def test_a_ranks_account_comes_before_a_bare_exit_code_and_after_a_kill(run, watcher):
    attempt = run.attempts()[0]
    attempt.node_log("n1").write_text(GONE.format(code=1))
    assert watcher.look().failed == ("n1", "rank 1: exit code 1")
    account = {"rank": 2, "node": "n2", "error": "ValueError: no", "time_unix_s": 1.0}
    attempt.rank_failure(2).write_text(json.dumps(account))
    assert watcher.look().failed == ("n2", "rank 2: ValueError: no")
    attempt.node_log("n2").write_text(GONE.format(code=-11))
    assert watcher.look().failed == ("n2", "rank 3: killed by SIGSEGV")


def fail(run):
    account = {"rank": 0, "node": "n1", "error": "closed by peer", "time_unix_s": time.time()}
    run.attempts()[0].rank_failure(0).write_text(json.dumps(account))


def test_all_nodes_are_asked_as_soon_as_a_rank_has_failed(run, start):
    watcher = start(look_every_s=600.0)
    watcher.silent = {"n2"}
    fail(run)
    look = settled(watcher, asks=1)
    assert (watcher.nodes.looks, look.confirmed) == (1, True)
    assert look.failed == ("n1", "rank 0: closed by peer")
    assert [(node.name, node.fault) for node in look.nodes] == [
        ("n1", ""), ("n2", "unreachable: no route"),
    ]  # fmt: skip


def test_a_failure_is_confirmed_without_a_wait_by_answers_to_a_later_question(run, start):
    watcher = start(look_every_s=0.0)
    settled(watcher)
    start.open.clear()
    watcher.look()
    watcher.look()  # a question is under way, or begins with this look
    fail(run)
    for _ in range(3):
        look = watcher.look()
        assert (look.failed, look.confirmed) == (("n1", "rank 0: closed by peer"), False)
    start.open.set()
    settled(watcher, asks=1)
    assert settled(watcher, asks=1).confirmed


def test_torchruns_own_term_to_its_ranks_is_no_failure(run, watcher):
    run.attempts()[0].node_log("n2").write_text(GONE.format(code=-15))
    assert watcher.look().failed is None


def test_a_stop_by_a_person_is_seen(run, watcher):
    assert not watcher.look().stopped
    EventLog(run, "kill").write(EventKind.STOP_REQUESTED, attempt=1)
    assert watcher.look().stopped


def test_what_the_trainers_files_show_becomes_events(run, watcher):
    append_jsonl(run.metrics, [{"global_step": 1, "attempt": 1}])
    step(run, 1)
    watcher.look()
    assert [(event.kind, event.step) for event in read_events(run)] == [("first step", 1)]


def test_a_save_that_was_given_up_is_an_event_once_with_its_reason(run, watcher):
    line = "12:00 rank 0: checkpoint epoch0-global_step5 given up, training goes on: no room\n"
    run.attempts()[0].node_log("n1").write_text(line)
    watcher.look()
    again = Watcher(run, run.attempts()[0], lambda *_: None, EventLog(run, "supervisor"))
    again.look()
    found = [(event.kind, event.step, event.text) for event in read_events(run)]
    assert found == [("save given up", 5, "no room")]


def test_a_launcher_that_is_gone_is_written_once(run, watcher):
    run.attempts()[0].node_exit("n2").write_text("137\n")
    settled(watcher)
    settled(watcher)
    found = [(event.kind, event.node, event.text) for event in read_events(run)]
    assert found == [("orphaned", "n2", "the launcher is gone, 2 ranks train on")]


def test_a_launcher_that_is_gone_is_no_end_while_its_ranks_go_on(run, watcher):
    run.attempts()[0].node_exit("n2").write_text("137\n")
    look = settled(watcher)
    assert [node.exit_code for node in look.nodes] == [None, None]


def test_a_folder_that_is_gone_is_this_machines_fault_and_comes_back(run, watcher, tmp_path):
    step(run, 3)
    assert watcher.look().step == 3
    run.path.rename(tmp_path / "elsewhere")
    lost = watcher.look()
    assert (lost.head_fault, lost.nodes) == ("No such file or directory", ())
    (tmp_path / "elsewhere").rename(run.path)
    assert (watcher.look().head_fault, watcher.look().step) == ("", 3)
