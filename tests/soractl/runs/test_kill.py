import contextlib
import os
import re
import time

import pytest

from soractl.errors import SoractlError
from soractl.processes.selection import Selection
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.remote.ssh_command import SshOptions
from soractl.runs import report
from soractl.runs.kill import KillOptions, Target, kill, targets
from soractl.runs.post_mortem import Failure, Outcome
from trainer.atomic_files import write_json

SLEEP = "print('up', flush=True)\ntime.sleep(600)"


NONE_STOPPED = "interrupted: 0 processes of 007-stage2 stopped; what ignores TERM stays"


def interrupted_at(call):
    """A Remote that answers nothing; Ctrl-C comes at one of its calls."""
    calls = []

    def remote(node, request, deadline_s):
        calls.append(node)
        if len(calls) == call:
            raise KeyboardInterrupt
        return NodeResult(node, stdout=SCANNED, exit_code=0)

    remote.calls = calls
    return remote


SCANNED = (
    "1/environ:SORACTL_RUN_ID=/r\n=== environ 0\n1 me\n9 me\n=== owners 0\n"
    f"1/stat:1 (x) S 0 1 1 {'0 ' * 15}5\n9/stat:9 (sh) S 0 9 9 {'0 ' * 15}6\n=== stat 0\n"
    "=== cmdline 0\n=== self 9\n"
)


@pytest.mark.parametrize(
    ("call", "lines"),
    [
        (1, ["n1: interrupted", "interrupted: nothing of 007-stage2 was stopped"]),
        (2, ["n1: interrupted before anything was sent", NONE_STOPPED]),
        (3, ["n1: 1 other; TERM was sent, KILL was not", NONE_STOPPED]),
    ],
)
def test_ctrl_c_ends_a_kill_at_once_and_says_what_was_sent(call, lines):
    remote = interrupted_at(call)
    target = Target("007-stage2", (Node("n1"),), SshOptions(), Selection(run_id="/r"))
    killed = kill([target], lambda ssh: contextlib.nullcontext(remote), grace_s=1)
    assert len(remote.calls) == call
    assert (report.kill_lines(killed), killed.exit_code) == (lines, 130)


def test_a_pattern_goes_to_the_nodes_that_are_named(workplace):
    workplace.write("hostfiles/nodes.txt", "n1\nn2\n")
    [target] = targets(workplace.folder, KillOptions(pattern="train", sudo=True), {})
    assert (target.title, target.nodes, target.which) == (
        "processes like train on hostfiles/nodes.txt (default)",
        (Node("n1"), Node("n2")),
        Selection(pattern="train", sudo=True),
    )


def test_one_run_and_all_runs_contradict_each_other(tmp_path):
    with pytest.raises(SoractlError, match="one run was named"):
        targets(tmp_path, KillOptions(run="1", every_run=True), {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (KillOptions(pattern="("), "no regular expression: missing "),
        (KillOptions(pattern=""), "--pattern '' would mean every process"),
        (KillOptions(hostfile="no.txt"), "no host file no.txt"),
        (KillOptions(hostfile="no.txt", every_run=True), "no host file no.txt"),
    ],
)
def test_wrong_options_are_refused_before_any_node_is_asked(workplace, options, message):
    with pytest.raises(SoractlError, match=message) as caught:
        targets(workplace.folder / "runs", options, {})
    assert caught.value.exit_code == 2


def test_a_hostfile_names_the_nodes_to_look_on_and_sudo_holds_for_runs_too(workplace):
    workplace.soractl("launch", "smoke")
    workplace.write("hostfiles/other.txt", "n1\nn2\n")
    [target] = targets(
        workplace.folder / "runs", KillOptions(run="1", hostfile="other.txt", sudo=True), {}
    )
    run = str(workplace.folder / "runs/001-smoke")
    assert (target.title, target.nodes, target.which) == (
        "001-smoke on hostfiles/other.txt",
        (Node("n1"), Node("n2")),
        Selection(run_id=run, sudo=True),
    )


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [(["--pattern"], r"python.*train\.py"), (["--pattern", "no such"], "no such")],
)
def test_a_pattern_without_its_value_means_training(workplace, arguments, pattern):
    dry = workplace.soractl("kill", *arguments, "--dry-run", "--hostfile", "localhost,")
    assert re.search(rf" processes like {re.escape(pattern)} on localhost(\n| is )", dry.stdout)


def test_the_newest_run_that_lives_is_stopped_and_the_others_are_not(workplace):
    workplace.ranks(SLEEP)
    for _ in range(2):
        workplace.soractl("launch", "smoke", "--detach")
    for run in ("001-smoke", "002-smoke"):
        wait_for_log(workplace.folder / "runs" / run / "attempts/1")
    workplace.ranks("")
    workplace.soractl("launch", "smoke")
    dry = workplace.soractl("kill", "--dry-run")
    assert dry.stdout.splitlines()[0] == "would stop 002-smoke"
    done = workplace.soractl("kill", "--grace", "5")
    name = os.uname().nodename
    assert done.stdout.splitlines() == [f"{name}: 3 other", "002-smoke: 3 processes stopped"]
    assert done.stderr == "002-smoke: asking 3 processes to end; KILL after 5 s (--grace)\n"
    assert "stopped (attempt 1" in workplace.soractl("status", "2").stdout
    assert "running (attempt 1" in workplace.soractl("status", "1").stdout
    assert "nothing of 003-smoke is running" in workplace.soractl("kill", "3").stdout
    assert "001-smoke: 3 processes stopped" in workplace.soractl("kill").stdout
    assert workplace.soractl("kill").stdout == "no run of yours is running\n"


def test_ranks_on_a_node_that_was_lost_and_is_back_are_found(workplace):
    workplace.ranks(SLEEP)
    workplace.soractl("launch", "smoke", "--detach")
    attempt = workplace.folder / "runs/001-smoke/attempts/1"
    wait_for_log(attempt)
    lost = Failure(os.uname().nodename, "the node does not answer")
    write_json(attempt / "exit.json", Outcome(1, time.time(), lost).as_json())
    assert "001-smoke: 3 processes stopped" in workplace.soractl("kill", "--grace", "5").stdout


def wait_for_log(attempt):
    end = time.monotonic() + 10
    while not any(log.read_text() for log in attempt.glob("*.log")):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_another_users_run_is_refused_to_kill_with_its_owner(roots_run, as_nobody):
    with pytest.raises(SoractlError, match="belongs to root, whose processes") as no:
        targets(roots_run.path.parent, KillOptions(run="1"), {})
    assert no.value.exit_code == 5
