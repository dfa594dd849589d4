"""The batch shell's program with scripts in Slurm's place; tests/soractl/queue has the real one."""

import os
import signal
import subprocess
import sys

import pytest

from soractl.jobs.submit import submit
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.queue.record import read_record
from soractl.remote.connections import Connections
from soractl.runs.events import read_events
from soractl.runs.record import read_record as read_plan
from tests.conftest import REPOSITORY
from tests.waiting import wait_for
from trainer.atomic_files import read_json

# A launcher with one rank, which saves and leaves at TERM, as the trainer does.
RANK_THAT_SAVES = """
    if "RANK" not in os.environ and sys.argv[-3].endswith("node_rank=0"):
        import subprocess
        sys.exit(subprocess.run(sys.argv, env={**os.environ, "RANK": "0"}).returncode)
    if "RANK" in os.environ:
        from trainer.atomic_files import write_json
        def leave(*_):
            save(attempt.number)
            write_json(attempt.stopped, {"signal": "SIGTERM"})
            sys.exit(143)
        signal.signal(signal.SIGTERM, leave)
        (run.path / "ready").touch()
        if attempt.number == 1: time.sleep(60)
"""

# Its launcher ends long after it.
LINGERS = """
    if "RANK" not in os.environ and sys.argv[-3].endswith("node_rank=0"):
        import subprocess
        subprocess.run(sys.argv, env={**os.environ, "RANK": "0"})
        while not (run.path / "go").exists(): time.sleep(0.1)
        sys.exit(143)
"""


@pytest.fixture
def job(slurm_here):
    """A run in the queue, and a function that starts its batch shell as Slurm would."""
    with Connections() as remote:
        submitted = submit(
            prepare_launch("smoke", LaunchOptions(queue="slurm"), os.environ), ["s"], remote
        )

    def start(**environ):
        given = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[1-2]"}
        with (slurm_here.folder / "batch.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "soractl.jobs.batch", str(submitted.run.path)],
                cwd=slurm_here.folder,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **given, **environ},
                stderr=log,
            )

    start.run = submitted.run
    start.workplace = slurm_here
    return start


def kinds(run):
    return [event.kind for event in read_events(run) if event.by == "slurm"]


def test_a_job_plans_its_attempt_on_the_nodes_that_slurm_gave(job):
    job.workplace.ranks("if sys.argv[-3].endswith('node_rank=0'): save(1)")
    assert job().wait(60) == 0
    [attempt] = job.run.attempts()
    assert [node.name for node in read_plan(attempt).nodes] == ["n1", "n2"]
    assert read_plan(attempt).ranks == (2, 2)
    assert "15012" in attempt.node_script("n1").read_text()  # the port is the job's own
    assert read_json(attempt.exit)["exit_code"] == 0
    assert read_record(attempt).then == "ended"
    assert kinds(job.run) == ["started", "ended"]
    assert not (job.workplace.bin / "scontrolled").exists()


def test_a_warning_saves_requeues_and_the_next_start_goes_on_from_there(job):
    job.workplace.ranks(RANK_THAT_SAVES)
    shell = job()
    wait_for((job.run.path / "ready").exists)
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(60) == 0
    first = job.run.attempts()[0]
    assert read_json(first.exit)["first_failure"]["stopped"]
    assert read_record(first).then == "requeued"
    assert (job.workplace.bin / "scontrolled").read_text() == "requeue 12\n"
    assert job(SLURM_RESTART_COUNT="1").wait(60) == 0
    second = job.run.attempts()[1]
    [saved] = job.run.checkpoints()
    assert read_json(second.plan)["start"] == {
        "kind": "resume",
        "path": str(saved.path),
        "reset_data": False,
    }
    assert (read_record(second).restarts, read_record(second).then) == (1, "ended")
    assert kinds(job.run) == ["started", "ended", "requeued", "started", "ended"]


def test_a_job_goes_back_although_launchers_take_long_to_end(job):
    job.workplace.ranks(LINGERS + RANK_THAT_SAVES)
    shell = job()
    wait_for((job.run.path / "ready").exists)
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(60) == 0
    (job.run.path / "go").touch()
    [attempt] = job.run.attempts()
    assert read_record(attempt).then == "requeued"
    assert read_json(attempt.exit)["first_failure"]["lost"] == []


def test_a_stop_on_request_saves_and_is_not_requeued(job):
    job.workplace.ranks(RANK_THAT_SAVES)
    shell = job()
    wait_for((job.run.path / "ready").exists)
    shell.send_signal(signal.SIGINT)
    assert shell.wait(60) == 143
    assert read_record(job.run.attempts()[0]).then == "ended"
    assert not (job.workplace.bin / "scontrolled").exists()


def test_a_failed_run_is_not_requeued_and_has_the_events_of_bare_metal(job):
    job.workplace.ranks("train(7, 9)\nsys.exit(3)")
    assert job().wait(60) == 1
    _, crashed, ended = (event for event in read_events(job.run) if event.by == "slurm")
    assert (crashed.kind, crashed.text) == ("crashed", "`colossalai run` ended with exit code 3")
    assert (ended.kind, ended.text) == ("ended", "exit code 1")
    assert (crashed.step, ended.step) == (7, 7)
    assert read_record(job.run.attempts()[0]).then == "ended"
    assert not (job.workplace.bin / "scontrolled").exists()


@pytest.mark.parametrize(("ranks", "code"), [("sys.exit(3)", 1), ("", 0)])
def test_an_expedited_job_that_failed_is_cancelled_since_slurm_would_hold_it(job, ranks, code):
    job.workplace.write("bin/job", "JobId=12 Requeue=1 Restarts=0 ExpeditedRequeue=Yes\n")
    job.workplace.ranks(ranks)
    assert job().wait(60) == code
    cancelled = job.workplace.bin / "scancelled"
    assert cancelled.exists() == bool(code)
    if code:
        assert cancelled.read_text() == "12\n"


def test_an_attempt_that_slurm_cut_off_is_settled_by_the_next_start(job):
    job.workplace.ranks("")
    assert job().wait(60) == 0
    [first] = job.run.attempts()
    for file in (first.exit, first.node_exit("n2")):
        file.unlink()
    assert job(SLURM_RESTART_COUNT="1").wait(60) == 0
    failure = read_json(first.exit)["first_failure"]
    assert (failure["node"], failure["error"]) == ("n2", "Slurm ended it: it left no exit code")
    assert kinds(job.run) == ["started", "ended", "lost", "ended", "started", "ended"]
    assert len(job.run.attempts()) == 2


RANK_THAT_DIES_AT_TERM = """
    if "RANK" not in os.environ and sys.argv[-3].endswith("node_rank=0"):
        import subprocess
        subprocess.run(sys.argv, env={**os.environ, "RANK": "0"})
        from trainer.atomic_files import write_json
        write_json(attempt.rank_failure(1), {"rank": 1, "error": "connection reset",
                                             "traceback": None, "time_unix_s": 0})
        sys.exit(1)
    if "RANK" in os.environ:
        (run.path / "ready").touch()
        time.sleep(60)
"""


def test_ranks_that_were_ended_before_they_could_save_come_back(job):
    job.workplace.ranks(RANK_THAT_DIES_AT_TERM)
    shell = job()
    wait_for((job.run.path / "ready").exists)
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(60) == 0
    [attempt] = job.run.attempts()
    assert read_record(attempt).then == "requeued"
    assert read_json(attempt.exit)["first_failure"]["error"] == "SIGTERM"


def test_what_slurm_ends_at_the_limit_comes_back_before_it_is_killed(job):
    job.workplace.ranks("(run.path / 'ready').touch()\nif attempt.number == 1: time.sleep(60)")
    job.workplace.write("bin/config", "KillWait = 4 sec\n")
    shell = job()
    wait_for((job.run.path / "ready").exists)
    job.workplace.write("bin/queue", "12|COMPLETING|N/A|n[1-2]|TimeLimit\n")
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(10) == 0
    assert read_record(job.run.attempts()[0]).then == "requeued"


def test_what_an_administrator_cancels_does_not_come_back(job):
    job.workplace.ranks("(run.path / 'ready').touch()\ntime.sleep(60)")
    job.workplace.write("bin/config", "KillWait = 4 sec\n")
    shell = job()
    wait_for((job.run.path / "ready").exists)
    job.workplace.write("bin/queue", "12|COMPLETING|N/A|n[1-2]|None\n")
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(10) == 143
    assert read_record(job.run.attempts()[0]).then == "ended"
    assert not (job.workplace.bin / "scontrolled").exists()


HELD = "JobId=12 JobState=RUNNING Requeue=1 ExpeditedRequeue=Yes\n"


def test_an_expedited_job_that_fails_does_not_stay_in_the_queue(job):
    job.workplace.ranks("sys.exit(1)")
    job.workplace.write("bin/job", HELD)
    assert job().wait(60) == 1
    assert (job.workplace.bin / "scancelled").read_text() == "12\n"


def test_a_job_that_may_have_gone_back_is_not_cancelled(job):
    job.workplace.ranks(RANK_THAT_SAVES)
    job.workplace.write("bin/job", HELD)
    (job.workplace.bin / "scontrolled").mkdir()  # so that the stand-in's requeue fails
    shell = job()
    wait_for((job.run.path / "ready").exists)
    shell.send_signal(signal.SIGUSR1)
    assert shell.wait(60) == 93
    assert not (job.workplace.bin / "scancelled").exists()


def test_outside_a_job_it_refuses(job):
    assert job(SLURM_JOB_ID="").wait(60) == 2


def test_one_node_that_failed_ends_the_others(job):
    job.workplace.ranks("""
    if sys.argv[-3].endswith("node_rank=1"): sys.exit(3)
    time.sleep(300)
    """)
    assert job().wait(60) == 1
    [attempt] = job.run.attempts()
    failure = read_json(attempt.exit)["first_failure"]
    assert (failure["node"], failure["stopped"]) == ("n2", False)


def test_a_controller_that_does_not_answer_ends_no_save(job):
    job.workplace.ranks(RANK_THAT_SAVES)
    job.workplace.write("bin/squeue", "#!/bin/sh\nexit 1\n")
    shell = job()
    wait_for((job.run.path / "ready").exists)
    job.workplace.write("bin/scontrol", "#!/bin/sh\nexit 1\n")
    shell.send_signal(signal.SIGTERM)
    assert shell.wait(60) == 143
    [attempt] = job.run.attempts()
    assert read_json(attempt.exit)["first_failure"]["stopped"]
    assert read_record(attempt).then == "ended"


def test_a_typing_error_in_the_clusters_file_ends_the_run_with_its_reason(job):
    job.workplace.write("hostfiles/slurm.toml", "ranks_per_nod = 2\n")
    assert job().wait(60) == 2
    [attempt] = job.run.attempts()
    outcome = read_json(attempt.exit)
    assert outcome["exit_code"] == 2
    assert "ranks_per_nod" in outcome["first_failure"]["error"]
    assert read_record(attempt).then == "ended"
