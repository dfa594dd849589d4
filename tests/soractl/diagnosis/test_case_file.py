from datetime import UTC, datetime

import pytest

from soractl.diagnosis import node_facts
from soractl.diagnosis.case_file import explain_run, newest_evidence, read_case, within
from soractl.diagnosis.report import why_json, why_lines
from soractl.diagnosis.signatures import CauseKind
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.remote.ssh_command import SshOptions
from soractl.runs.events import EventKind, EventLog
from soractl.runs.post_mortem import Failure, Outcome, read_outcome
from soractl.runs.record import node_as_json, read_record
from trainer.atomic_files import folder_time, read_json, write_json
from trainer.run_dir import create_run

NODES = (Node("n1"), Node("n2"))
KERNEL = (
    "2026-11-30T01:00:00,512345+00:00 NVRM: Xid (PCI:0000:06:00): 79, GPU has fallen off the bus.",
    "2026-11-29T01:00:00,512345+00:00 Out of memory: Killed process 1 (python)",
    "[ 1234.5] NVRM: Xid (PCI:0000:06:00): 79, GPU has fallen off the bus.",
)
AT = 1796000400.0  # 2026-11-30T01:00:00Z


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "smoke")


def attempt_of(run, failure=None, *, ended_unix_s=AT + 60, code=1):
    attempt = run.new_attempt()
    nodes = [{**node_as_json(node), "ranks": 2} for node in NODES]
    plan = {"run_id": str(run.path), "nodes": nodes, "ssh": vars(SshOptions())}
    write_json(attempt.plan, {**plan, "started_unix_s": AT - 60})
    if code is not None:
        write_json(attempt.exit, Outcome(code, ended_unix_s, failure).as_json())
        for node in NODES:
            attempt.node_exit(node.name).write_text(str(code))
    return attempt


def kernel_of_n1(node, request, deadline_s):
    text = "\n".join(KERNEL) + "\n=== kernel 0\n" if node.name == "n1" else "=== kernel 0\n"
    return NodeResult(node, stdout=text, exit_code=0)


def case_of(run, attempt):
    failure = read_outcome(attempt).first_failure
    facts = node_facts.ask(NODES, run.path, kernel_of_n1)
    return read_case(run, attempt, read_record(attempt), failure, facts)


def test_messages_of_other_times_and_without_a_time_do_not_count():
    assert within(KERNEL, AT - 60, AT + 60) == KERNEL[:1]
    assert within(["2026-11-30T03:00:00+02:00 x"], AT - 1, AT + 1) != ()


@pytest.mark.parametrize("ahead_s", [-7200, 7200])
def test_kernel_messages_count_by_their_nodes_own_clock(run, ahead_s):
    now = folder_time(run.path)
    failure = Failure("n1", "killed by SIGKILL", 0)
    attempt = attempt_of(run, failure, ended_unix_s=now - 60)
    plan = read_json(attempt.plan)
    write_json(attempt.plan, {**plan, "started_unix_s": now - 1200})
    at = [datetime.fromtimestamp(now + ahead_s - ago_s, UTC) for ago_s in (3600, 600)]
    lines = [f"{when.isoformat(timespec='seconds')} NVRM: Xid (PCI:06): 79, lost" for when in at]

    def remote(node, request, deadline_s):
        text = "\n".join([*lines, "=== kernel 0", f"=== clock {int(now + ahead_s)}", ""])
        return NodeResult(node, stdout=text, exit_code=0)

    facts = node_facts.ask(NODES[:1], run.path, remote)
    case = read_case(run, attempt, read_record(attempt), failure, facts)
    assert case.kernel == {"n1": (lines[1],)}


def test_a_case_file_holds_what_is_on_disk_and_what_kernels_say(run):
    attempt = attempt_of(run, Failure("n1", "killed by SIGKILL", 0))
    account = {"rank": 3, "error": "ValueError", "traceback": "T", "time_unix_s": 5}
    write_json(attempt.rank_failure(3), account)
    attempt.node_log("n2").write_text("line\n")
    case = case_of(run, attempt)
    assert case.accounts == [{**account, "node": "n2"}]
    assert (case.logs, case.kernel) == ({"n1": [], "n2": ["line"]}, {"n1": KERNEL[:1], "n2": ()})
    assert (case.verdict, case.stopped_by, case.evidence) == (None, None, None)


def test_only_a_command_before_the_end_stopped_it(run):
    EventLog(run, "kill").write(EventKind.STOP_REQUESTED, attempt=1)
    past = attempt_of(run, Failure("n1", "x"))
    assert case_of(run, past).stopped_by is None
    write_json(past.exit, Outcome(1, AT + 1e9, Failure("n1", "x")).as_json())
    assert case_of(run, past).stopped_by == "`soractl kill`"
    EventLog(run, "supervisor").write(EventKind.KILLED, attempt=2)
    assert (
        case_of(run, attempt_of(run, Failure("n1", "x"), ended_unix_s=AT + 1e9)).stopped_by is None
    )


def evidence(attempt, name, *, complete=True, **verdict):
    folder = attempt.evidence / name
    folder.mkdir(parents=True)
    write_json(folder / "verdict.json", verdict)
    if complete:
        write_json(folder / "manifest.json", {})
    return folder


def test_the_newest_complete_evidence_counts_while_no_step_followed(run):
    attempt = attempt_of(run, Failure("n1", "x"))
    assert newest_evidence(attempt) == (None, None)
    evidence(attempt, "20261130T010000Z", step=3)
    newest = evidence(attempt, "20261130T010500Z", step=5)
    evidence(attempt, "20261130T011000Z", complete=False, step=7)
    assert newest_evidence(attempt) == (newest, {"step": 5})
    run.beat(5, 100, attempt.number)
    assert case_of(run, attempt).verdict == {"step": 5}
    run.beat(6, 100, attempt.number)
    assert case_of(run, attempt).verdict is None
    run.beat(99, 100, attempt.number + 1)  # of the next attempt
    assert case_of(run, attempt).verdict == {"step": 5}


def test_the_newest_failure_is_explained_with_what_to_type(run):
    attempt = attempt_of(run, Failure("n1", "killed by SIGKILL; x", 1))
    found = explain_run(run, kernel_of_n1)
    assert found.explanation.kind is CauseKind.HARDWARE
    assert why_lines(found) == [
        "attempt       1",
        "cause         a GPU fell off the bus (Xid 79) (sure)",
        f"first         n1: {KERNEL[0]}",
        "confirmation  n1: a rank was killed; nothing says by whom: killed by SIGKILL; x",
        "do            leave the node out of the host file, and have that GPU looked at or reset",
    ]
    assert why_json(found)["explanation"]["root"]["node"] == "n1"
    assert attempt.number == found.attempt


def test_an_earlier_failure_is_explained_while_the_next_attempt_runs(run):
    first = attempt_of(run, Failure("n2", "`colossalai run` ended with exit code 1"))
    second = attempt_of(run, code=None)

    def remote(node, request, deadline_s):
        text = "=== processes 4\n=== clock 5\n=== kernel 0\n"
        return NodeResult(node, stdout=text, exit_code=0)

    found = explain_run(run, remote)
    assert (found.attempt, found.newest, found.state) == (first.number, second.number, "running")
    assert why_lines(found) == [
        "attempt  1; attempt 2: running",
        "cause    nothing that is left of it names a cause (unknown)",
        "do       read the logs of all nodes: `soractl logs --node NODE`",
        "do       if it hangs again, `soractl diagnose` before it is killed",
    ]


def test_a_run_that_ended_well_has_no_failure(run):
    attempt_of(run, code=0)
    found = explain_run(run, kernel_of_n1)
    assert why_lines(found) == ["attempt 1: ended; no failure is known"]
    assert why_json(found)["explanation"] is None


@pytest.mark.parametrize(
    ("kinds", "last"),
    [
        ([EventKind.SUSPECT, EventKind.HUNG, EventKind.KILLED], EventKind.HUNG),
        ([EventKind.HUNG, EventKind.RECOVERED], None),
        ([EventKind.LOST], EventKind.LOST),
        ([EventKind.CRASHED], None),
        ([], None),
    ],
)
def test_the_last_word_of_who_watched_counts(run, kinds, last):
    attempt = attempt_of(run, Failure("n1", "x"))
    for kind in kinds:
        EventLog(run, "supervisor").write(kind, attempt=attempt.number)
    watched = case_of(run, attempt).watched
    assert (watched.kind if watched else None) == last
