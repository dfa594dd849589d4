import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from soractl.errors import Fault, FaultKind
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node, this_machine
from soractl.remote.requests import NodeResult
from soractl.remote.ssh_command import SshOptions
from soractl.runs.node_states import NO_ANSWER, KeptLooks, NodeState, ask_states, read_states
from soractl.runs.record import AttemptRecord
from tests.soractl.runs.users import ask_as_nobody
from trainer.run_dir import create_run


def test_processes_that_cannot_be_seen_are_unknown_and_have_an_owner(roots_run):
    [attempt] = roots_run.attempts()
    record = AttemptRecord(str(roots_run.path), (Node("n1"),), (1,), SshOptions(), 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "SORACTL_RUN_ID": str(roots_run.path)},
    ) as process:
        [state] = ask_states(attempt, record, ask_as_nobody)
        process.kill()
    assert (state.owner, state.processes, state.vanished) == ("root", None, False)


NODES = (Node("n1"), Node("n2"), Node("n3"))
LOOKS = {
    "n1": NodeResult(
        NODES[0], "=== processes 3\n=== age 70\n=== clock 500\n=== exit 1\n", exit_code=0
    ),
    "n2": NodeResult(NODES[1], "", exit_code=0),
    "n3": NodeResult(NODES[2], fault=Fault(FaultKind.UNREACHABLE, "no route")),
}


def test_each_node_says_its_processes_its_clock_and_how_it_ended_or_why_it_says_nothing(tmp_path):
    attempt = create_run(tmp_path, "smoke").new_attempt()
    record = AttemptRecord("r", NODES, (1, 1, 1), SshOptions(), 0.0)
    states = ask_states(attempt, record, lambda node, request, deadline_s: LOOKS[node.name])
    assert states == [
        NodeState("n1", 1, processes=3, clock_unix_s=500, age_s=70),
        NodeState("n2", fault=NO_ANSWER),
        NodeState("n3", fault=Fault(FaultKind.UNREACHABLE, "no route")),
    ]


@pytest.fixture(params=["local", "ssh"])
def kept(request, tmp_path):
    """Looks at one node by a program that stays there, and the attempt; its node has a process."""
    server = request.getfixturevalue("sshd") if request.param == "ssh" else None
    node = server.node if server else this_machine()
    options = server.options if server else SshOptions()
    attempt = create_run(tmp_path, "smoke").new_attempt()
    record = AttemptRecord(str(attempt.path), (node,), (1,), options, 0.0)
    with (
        Connections(options) as remote,
        subprocess.Popen(
            ["sleep", "600"], env={**os.environ, "SORACTL_RUN_ID": record.run_id}
        ) as process,
    ):
        looks = KeptLooks(attempt, record, remote)
        looks.attempt, looks.node = attempt, node.name
        looks.seen = 0 if server else 1  # the server has a process table of its own
        yield looks
        looks.close()
        process.kill()


def test_a_program_that_stays_on_a_node_is_asked_again_and_again(kept):
    for _ in range(3):
        [state] = kept()
        assert (state.fault, state.processes, state.exit_code) == (None, kept.seen, None)
    [dialogue] = kept._dialogues.values()
    kept.attempt.node_exit(kept.node).write_text("3")
    [state] = kept()
    assert (state.exit_code, state.processes) == (3, kept.seen)
    assert list(kept._dialogues.values()) == [dialogue]


def test_a_program_that_is_gone_is_a_fault_once_and_started_anew(kept):
    kept()
    kept._dialogues[kept.node].close()
    [state] = kept()
    assert state.fault.kind is FaultKind.UNREACHABLE
    [state] = kept()
    assert (state.fault, state.processes) == (None, kept.seen)


def test_a_program_that_gives_no_first_answer_is_closed(tmp_path):
    attempt = create_run(tmp_path, "smoke").new_attempt()
    record = AttemptRecord("r", (this_machine(),), (1,), SshOptions(), 0.0)
    started = []

    class Ends(Connections):
        def dialogue(self, node, argv, within_s):
            started.append(super().dialogue(node, ("true",), within_s))
            return started[-1]

    with Ends() as remote:
        [state] = KeptLooks(attempt, record, remote)()
        assert (state.fault.kind, started[0].is_closed) == (FaultKind.UNREACHABLE, True)


def test_two_who_ask_at_once_each_get_an_answer_of_their_own(kept):
    with ThreadPoolExecutor(4) as pool:
        answers = [found.result() for found in [pool.submit(kept) for _ in range(4)]]
    assert [state.processes for [state] in answers] == [kept.seen] * 4


def test_who_closes_while_another_looks_ends_that_look_with_a_fault(kept):
    kept()
    [dialogue] = kept._dialogues.values()
    send = dialogue.send

    def closed_at_this_moment(*words):
        kept.close()
        return send(*words)

    dialogue.send = closed_at_this_moment
    [state] = kept()
    assert state.fault.kind is FaultKind.UNREACHABLE
    assert kept._dialogues == {}


def test_on_disk_alone_only_exit_codes_are_known_and_half_a_file_is_none(tmp_path):
    attempt = create_run(tmp_path, "smoke").new_attempt()
    attempt.node_exit("n1").write_text("3\n")
    attempt.node_exit("n2").write_text("")
    states = read_states(attempt, NODES)
    assert states == [NodeState("n1", exit_code=3), NodeState("n2"), NodeState("n3")]
    assert [state.ended for state in states] == [True, False, False]
    assert [state.vanished for state in states] == [False, False, False]
    assert NodeState("n2", processes=0).vanished
