"""Answers of 22.05.8, and for what cannot be installed here, from its man pages and source."""

import os

import pytest

from soractl.errors import SoractlError
from soractl.queue.slurm import Slurm
from soractl.queue.slurm_answers import SlurmEntry
from soractl.remote.connections import Connections
from soractl.remote.nodes import this_machine
from soractl.remote.requests import NodeResult


class Answers:
    """A Remote that gives the same answer to every request, and keeps the requests."""

    def __init__(self, stdout="", stderr="", exit_code=0):
        self.answer = (stdout, stderr, exit_code)
        self.requests = []

    def __call__(self, node, request, deadline_s):
        self.requests.append(request)
        return NodeResult(node, *self.answer)


def test_a_script_goes_over_stdin_and_its_job_has_an_id():
    remote = Answers("12;cluster\n")
    assert Slurm(remote).submit("#!/bin/bash\n") == 12
    [request] = remote.requests
    assert (request.argv, request.stdin) == (("sbatch", "--parsable"), "#!/bin/bash\n")


def test_the_forecast_is_slurms_own():
    line = "sbatch: Job 1 to start at 2026-11-30T10:07:05 using 1 processors on nodes n1\n"
    assert Slurm(Answers(stderr=line)).check("") == line.removeprefix("sbatch: ").strip()


@pytest.mark.parametrize(
    ("stderr", "hint"),
    [
        (
            "sbatch: error: _parse_next_key: Parsing error at unrecognized key: PreemptParameters "
            "sbatch: fatal: Unable to process configuration file",
            "a key in slurm.conf is not known to this version of Slurm",
        ),
        (
            "sbatch: error: Unable to contact slurm controller (connect failure)",
            "`scontrol ping` asks the controller",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            "`sinfo -s` lists the partitions; [slurm] partition in the cluster's file",
        ),
        (
            "sbatch: error: Batch job submission failed: "
            "Requested node configuration is not available",
            "`sinfo -o '%P %D %G'` shows what nodes have; [slurm] nodes and gpus_per_node",
        ),
        (
            "allocation failure: Invalid feature specification",
            "`sinfo -o '%P %f'` shows the features of nodes; [slurm] lines",
        ),
        (
            "sbatch: error: Munge encode failed: Failed to access /run/munge/munge.socket.2",
            "`munge -n | unmunge` shows whether munge runs and clocks agree; on each machine",
        ),
        (  # the clock of the login node is half an hour late
            "allocation failure: Zero Bytes were transmitted or received",
            "the controller takes no credential of this machine: their clocks or munge's keys"
            " differ; `munge -n | ssh CONTROLLER unmunge` says which",
        ),
        (
            "sbatch: error: Batch job submission failed: "
            "I/O error writing script/environment to file",
            "the disk of Slurm's controller is full (StateSaveLocation): its administrators can"
            " help",
        ),
        ("sbatch: error: Something of 2029", None),
    ],
)
def test_a_refusal_has_slurms_words_a_hint_and_exit_code_5(stderr, hint):
    with pytest.raises(SoractlError) as caught:
        Slurm(Answers(stderr=f"{stderr}\n", exit_code=1)).submit("")
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (
        f"Slurm refuses: {stderr}",
        hint,
        5,
    )


def test_what_slurm_repeats_is_shown_once():
    encode = "sbatch: error: Munge encode failed: Failed to access munge.sock"
    advice = "sbatch: error: If munged is up, restart with --num-threads=10"
    with pytest.raises(SoractlError) as caught:
        Slurm(Answers(stderr=f"{advice}\n{encode}\n" * 2, exit_code=1)).submit("")
    assert caught.value.message == f"Slurm refuses: {encode}"


def test_a_machine_without_slurm_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with Connections() as remote, pytest.raises(SoractlError) as caught:
        Slurm(remote).submit("")
    assert (caught.value.message, caught.value.exit_code) == (
        "there is no Slurm on this machine: sbatch: No such file or directory",
        2,
    )
    assert os.environ["PATH"] == str(tmp_path)


def test_a_chains_job_waits_for_all_others_of_its_name():
    remote = Answers("13\n")
    assert Slurm(remote).submit("#!/bin/bash\n", behind_its_name=True) == 13
    assert remote.requests[0].argv == ("sbatch", "--parsable", "--dependency=singleton")


@pytest.mark.parametrize(("more", "is_held"), [("ExpeditedRequeue=Yes ", True), ("", False)])
def test_an_expedited_job_that_fails_is_held(more, is_held):
    line = f"JobId=2 JobName=a JobState=RUNNING Requeue=1 Restarts=0 {more}BatchFlag=1\n"
    assert Slurm(Answers(line)).holds_failed(2) is is_held


@pytest.mark.parametrize(("flag", "may"), [("Requeue=1", True), ("Requeue=0", False)])
def test_a_job_says_whether_it_may_be_requeued(flag, may):
    line = f"JobId=2 JobName=a JobState=PENDING {flag} Restarts=0 BatchFlag=1\n"
    assert Slurm(Answers(line)).may_requeue(2) is may


def test_the_time_from_term_to_kill_is_the_clusters():
    assert Slurm(Answers("JobRequeue              = 1\nKillWait    = 5 sec\n")).kill_wait_s() == 5
    assert Slurm(Answers("")).kill_wait_s() == 30
    assert Slurm(Answers(stderr="no controller", exit_code=1)).kill_wait_s() == 30


def test_settings_are_asked_for_again_until_slurm_answers():
    remote = Answers(stderr="no controller", exit_code=1)
    slurm = Slurm(remote)
    assert slurm.kill_wait_s() == 30
    remote.answer = ("KillWait    = 5 sec\n", "", 0)
    assert [slurm.kill_wait_s(), slurm.kill_wait_s()] == [5, 5]
    assert len(remote.requests) == 2


# `scontrol show config` of Slurm 25.05.5, a few of its lines, as a user of NLR's Kestrel published
# them (github.com; HPC discovery answers, 2026). It was not recorded by us.
OF_25_05 = """\
JobRequeue              = 0
KillWait                = 30 sec
MaxBatchRequeue         = 5
PreemptMode             = OFF
PreemptType             = (null)
SelectType              = select/cons_tres
SlurmctldHost[0]        = kmgmt1(10.150.0.23)
"""


def test_settings_of_a_later_slurm_are_read():
    assert Slurm(Answers(OF_25_05)).kill_wait_s() == 30


def test_an_unknown_job_is_none():
    remote = Answers(stderr="slurm_load_jobs error: Invalid job id specified\n", exit_code=1)
    assert Slurm(remote).entry_now(999) is None


def test_the_queue_is_asked_at_most_once_in_thirty_seconds():
    now_s = 100.0
    remote = Answers("7|RUNNING|N/A|n1|None\n")
    slurm = Slurm(remote, clock=lambda: now_s)
    running = SlurmEntry(7, "RUNNING", nodes="n1")
    assert slurm.entry(7) == slurm.entry(7) == running
    now_s = 129.9
    assert slurm.entry(7) == running
    assert len(remote.requests) == 1
    now_s = 130.0
    remote.answer = ("", "", 0)
    assert slurm.entry(7) is None
    assert len(remote.requests) == 2


def test_while_slurm_does_not_answer_the_last_answer_holds_and_it_is_asked_more_seldom():
    now_s = 0.0
    remote = Answers("7|RUNNING|N/A|n1|None\n")
    slurm = Slurm(remote, clock=lambda: now_s)
    running = slurm.entry(7)
    remote.answer = ("", "Unable to contact slurm controller", 1)
    asked_at = []
    for now_s in range(0, 1000, 10):
        before = len(remote.requests)
        assert slurm.entry(7) == running
        asked_at += [now_s] * (len(remote.requests) - before)
    assert asked_at == [30, 90, 210, 450, 750]


def test_a_job_that_was_never_seen_is_an_error_while_slurm_does_not_answer():
    with pytest.raises(SoractlError, match="Slurm refuses"):
        Slurm(Answers(stderr="Unable to contact slurm controller", exit_code=1)).entry(7)


def test_commands_of_a_user_share_what_squeue_answers(tmp_path):
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    remote = Answers("7|RUNNING|N/A|n1|None\n8|PENDING|N/A||Priority\n")
    assert Slurm.shared(remote, environ).entry(7).state == "RUNNING"
    assert Slurm.shared(remote, environ).entry(8).state == "PENDING"
    assert len(remote.requests) == 1
    assert "--me" in remote.requests[0].argv
    remote.answer = ("9|PENDING|N/A||None\n", "", 0)
    assert Slurm.shared(remote, environ).entry(9).state == "PENDING"  # newer than the answer
    assert "--jobs=9" in remote.requests[-1].argv


@pytest.mark.parametrize(
    ("stdout", "code", "state"),
    [("FAILED\n", 0, "FAILED"), ("CANCELLED by 0\n", 0, "CANCELLED by 0"), ("", 1, None)],
)
def test_accounts_are_asked_where_slurm_keeps_them(stdout, code, state):
    assert Slurm(Answers(stdout, exit_code=code)).accounted(7) == (
        SlurmEntry(7, state) if state else None
    )


def test_every_request_goes_to_this_machine():
    remote = Answers()
    slurm = Slurm(remote)
    slurm.signal(7, "USR1")
    slurm.cancel(7)
    slurm.requeue(7)
    assert [request.argv for request in remote.requests] == [
        ("scancel", "--batch", "--signal=USR1", "7"),
        ("scancel", "7"),
        ("scontrol", "requeue", "7"),
    ]
    assert this_machine().local


def test_a_requeue_from_inside_ends_scontrol_before_it_answers():
    # seen with 22.05.8: the job, scontrol among it, has TERM while scontrol waits
    assert Slurm(Answers(exit_code=143)).requeue(7) is None
    with pytest.raises(SoractlError, match="Slurm refuses: Requeue disabled"):
        Slurm(Answers(stderr="Requeue disabled\n", exit_code=1)).requeue(7)
