import pytest

from soractl.diagnosis.signatures import CauseKind
from soractl.remote.connections import Connections
from soractl.runs.record import read_record
from soractl.supervise.act import (
    GAVE_UP,
    Actor,
    failure_of,
    hostfile_of,
    new_past,
    nodes_of,
    note_verdict,
    past_attempts,
)
from soractl.supervise.decide import Cause
from soractl.supervise.lease import Lease, LeaseLostError
from soractl.supervise.observe import Verdict
from soractl.supervise.states import State

CAUSE = Cause("crashed", CauseKind.PROGRAM, "rank 0: ValueError: no", None, "ValueError: no")


def test_an_attempt_that_is_not_the_newest_is_left_alone(start):
    run = start("time.sleep(600)")
    lease = Lease(run.supervisor)
    assert lease.take()
    first = run.attempts()[0]
    second = run.new_attempt()
    second.plan.write_text(first.plan.read_text())
    with Connections() as remote, pytest.raises(LeaseLostError, match="attempt 2 has begun"):
        Actor(run, lease, remote).clear(first, [])


def test_decisions_are_remembered_until_a_person_starts_the_run_again(start):
    run = start("sys.exit(1)")
    first = run.attempts()[0]
    second, third = run.new_attempt(), run.new_attempt()
    past = new_past(run, first, CAUSE, 2)
    note_verdict(first, past, "restart")
    note_verdict(second, past, "restart")
    assert past_attempts(run, third) == [past, past]
    note_verdict(second, past, GAVE_UP)
    assert past_attempts(run, third) == []


def test_a_checkpoint_made_while_it_ran_is_progress(start, save_checkpoint):
    run = start("time.sleep(600)")
    attempt = run.attempts()[0]
    for found in run.checkpoints():
        found.remove()
    assert not new_past(run, attempt, CAUSE, 2).new_checkpoint
    save_checkpoint(run, 3)
    assert new_past(run, attempt, CAUSE, 2).new_checkpoint


def test_the_nodes_of_a_run_are_those_of_its_host_file_spares_included(start, workplace):
    run = start("time.sleep(600)")
    assert hostfile_of(run) is None
    assert nodes_of(run) == read_record(run.attempts()[0]).nodes
    file = workplace.write("hostfiles/two.txt", "n1\nn2 spare=true\n")
    run.run_json.write_text(f'{{"hostfile": "{file}"}}')
    assert [(node.name, node.spare) for node in nodes_of(run)] == [("n1", False), ("n2", True)]


def test_a_killed_rank_is_the_failure_whatever_others_complain_of(start):
    run = start("time.sleep(600)")
    attempt, record = run.attempts()[0], read_record(run.attempts()[0])
    attempt.rank_failure(0).write_text(
        '{"rank": 0, "node": "x", "error": "peer closed", "traceback": "", "time_unix_s": 1}'
    )
    node = record.nodes[0].name
    killed = failure_of(Verdict(State.CRASHED, "rank 1: killed by SIGKILL", node), attempt, record)
    assert (killed.rank, killed.error) == (1, "killed by SIGKILL")
    account = failure_of(Verdict(State.CRASHED, "rank 0: peer closed", node), attempt, record)
    assert (account.rank, account.error) == (0, "peer closed")
    lost = failure_of(Verdict(State.LOST, "no answer", node), attempt, record)
    assert (lost.node, lost.error) == (node, "no answer")
