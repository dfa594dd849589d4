"""A supervisor on this machine: stand-ins for ranks fail in every way and are resumed."""

import json
import os

import pytest

from soractl.cluster.settings import Cluster, SuperviseSettings
from soractl.launch import start as launcher
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.remote.connections import Connections
from soractl.runs import kill as killing
from soractl.runs.events import read_events
from soractl.supervise.act import Actor
from soractl.supervise.lease import Lease, LeaseLostError, read_holder
from soractl.supervise.step_clock import Limits
from soractl.supervise.supervisor import Found, Hooks, Supervisor, Timing
from trainer.atomic_files import read_json
from trainer.run_dir import RunDir

SOON = Timing(
    tick_s=0.05,
    look_every_s=0.2,
    beat_s=0.1,
    wait_s=0.2,
    limits=Limits(suspect_s=0.5, alone_s=2.0, starting_s=60, first_step_s=60, saving_s=2.0),
)
BY_ATTEMPT = """
    number = attempt.number
    print("attempt", number, flush=True)
    if number == 1:
        train(1, 6); save(1); train(2, 6)
        {first}
    for step in range(run.checkpoints()[-1].manifest.global_step + 1, 7):
        train(step, 6); time.sleep(0.02)
    save(6)
"""


@pytest.fixture
def start(workplace):
    """Launch ranks that fail in the first attempt as the code says, and train on in the second."""

    def launch(first, **more):
        workplace.ranks(more.get("code") or BY_ATTEMPT.format(first=first))
        prepared = prepare_launch("smoke", LaunchOptions(), os.environ)
        with Connections() as remote:
            return launcher.launch(prepared, ["soractl"], remote).run

    return launch


def supervised(run, **more):
    """Supervise a run to its end: the exit code."""
    settings = SuperviseSettings(most_starts=more.pop("most_starts", 9))
    lease = Lease(run.supervisor)
    assert lease.take()
    with Connections() as remote:
        actor = Actor(run, lease, remote)
        return Supervisor(actor, Cluster(supervise=settings), timing=SOON, **more).run()


def story(run):
    kept = {"hung", "crashed", "lost", "evidence", "killed", "started", "restarted", "gave up"}
    kept |= {"waiting", "ended", "quarantined"}
    return [(event.kind, event.attempt) for event in read_events(run) if event.kind in kept]


def test_a_crash_is_resumed_from_the_newest_checkpoint_to_the_end(start):
    run = start("sys.exit(1)")
    told = []
    assert supervised(run, hooks=Hooks(notify=lambda kind, text: told.append(kind))) == 0
    assert story(run) == [
        ("started", 1), ("crashed", 1), ("killed", 1), ("started", 2), ("restarted", 2),
        ("ended", 2),
    ]  # fmt: skip
    assert told == ["crashed", "restarted", "finished"]
    assert read_json(run.attempts()[1].plan)["start"]["kind"] == "resume"
    holder = read_holder(run.supervisor)
    assert (holder.ended, holder.state) == (True, "finished")


def test_a_run_that_stands_still_is_hung_its_ranks_are_killed_and_it_goes_on(start):
    run = start("time.sleep(600)")
    seen = []

    def evidence(watcher, verdict):
        seen.append((watcher.attempt.number, verdict.reason.startswith("no step for ")))
        return Found(path="attempts/1/evidence", text="two rounds of stacks")

    assert supervised(run, hooks=Hooks(evidence=evidence)) == 0
    assert seen == [(1, True)]
    assert story(run)[1:4] == [("hung", 1), ("evidence", 1), ("killed", 1)]
    assert read_json(run.attempts()[0].exit)["first_failure"]["error"].startswith("no step for ")


def test_ranks_that_vanish_without_a_word_are_a_lost_node(start):
    run = start("os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)")
    assert supervised(run) == 0
    assert ("lost", 1) in story(run)


def test_a_run_without_a_checkpoint_begins_again_as_it_began(start):
    code = """
    if attempt.number == 1:
        train(1, 3); sys.exit(1)
    for step in (1, 2, 3):
        train(step, 3)
    """
    run = start("", code=code)
    assert supervised(run) == 0
    assert read_json(run.attempts()[1].plan)["start"]["kind"] == "fresh"


def test_the_same_error_at_the_same_step_twice_is_given_up(start):
    code = """
    from trainer.atomic_files import write_json
    train(attempt.number and 2, 6)
    write_json(attempt.rank_failure(0), {"rank": 0, "node": "x", "error": "ValueError: no",
        "remedy": None, "traceback": "Traceback", "time_unix_s": time.time()})
    sys.exit(1)
    """
    run = start("", code=code)
    assert supervised(run) == 93
    assert story(run)[-1] == ("gave up", 2)
    assert read_events(run)[-1].text == "twice the same at step 2: rank 0: ValueError: no"
    assert read_holder(run.supervisor).state == "given up"


def test_what_settings_caused_is_given_up_at_once(start):
    code = """
    from trainer.atomic_files import write_json
    write_json(attempt.rank_failure(0), {"rank": 0, "node": "x", "error": "other data",
        "remedy": {"reset_data": True}, "traceback": None, "time_unix_s": time.time()})
    sys.exit(1)
    """
    run = start("", code=code)
    assert supervised(run) == 93
    assert len(run.attempts()) == 1


def test_a_damaged_newest_checkpoint_is_left_for_the_one_before(start):
    code = """
    from trainer.atomic_files import write_json
    if attempt.number == 1:
        train(1, 4); save(1); train(2, 4); save(2); sys.exit(1)
    if attempt.number == 2:
        before = str(run.checkpoints()[0].path)
        write_json(attempt.rank_failure(0), {"rank": 0, "node": "x", "error": "damaged",
            "remedy": {"checkpoint": before}, "traceback": None, "time_unix_s": time.time()})
        sys.exit(1)
    train(3, 4); save(3); train(4, 4)
    """
    run = start("", code=code)
    assert supervised(run) == 0
    starts = [read_json(attempt.plan)["start"]["path"] for attempt in run.attempts()]
    assert [path and path.rpartition("step")[2] for path in starts] == [None, "2", "1"]


def test_a_kill_by_a_person_is_the_end(start):
    run = start("time.sleep(600)")
    options = killing.KillOptions(run=run.name)
    killing.kill(killing.targets(run.path.parent, options, os.environ), Connections, grace_s=0)
    assert supervised(run) in (0, 143)
    assert len(run.attempts()) == 1


def test_who_only_watches_touches_nothing(start):
    run = start("sys.exit(1)")
    assert supervised(run, watch_only=True) == 1
    assert ("killed", 1) not in story(run)
    assert len(run.attempts()) == 1


def test_who_lost_the_lease_acts_no_more(start):
    run = start("time.sleep(600)")
    stolen = []

    def evidence(watcher, verdict):
        run.supervisor.unlink()
        assert Lease(run.supervisor).take()
        stolen.append(watcher.attempt.number)
        return Found()

    with pytest.raises(LeaseLostError):
        supervised(run, hooks=Hooks(evidence=evidence))
    assert stolen == [1]
    assert ("killed", 1) not in story(run)


def test_an_attempt_that_is_not_the_newest_is_left_alone(start):
    run = start("time.sleep(600)")
    lease = Lease(run.supervisor)
    assert lease.take()
    first = run.attempts()[0]
    second = run.new_attempt()
    second.plan.write_text(first.plan.read_text())
    with Connections() as remote, pytest.raises(LeaseLostError, match="attempt 2 has begun"):
        Actor(run, lease, remote).clear(first, [])


def test_healthy_training_with_saves_is_left_alone(start):
    code = """
    for step in range(1, 60):
        train(step, 60); time.sleep(0.05)
        if step % 20 == 0: save(step)
    """
    run = start("", code=code)
    assert supervised(run) == 0
    assert story(run) == [("started", 1), ("ended", 1)]


@pytest.mark.slow  # two attempts and three commands in processes of their own
def test_launch_supervise_returns_the_end_of_the_last_attempt(workplace):
    workplace.ranks(BY_ATTEMPT.format(first="sys.exit(1)"))
    done = workplace.soractl("launch", "smoke", "--supervise")
    assert "crashed" in done.stderr
    assert "001-smoke ended well at step 6" in done.stdout
    told = json.loads(workplace.soractl("status", "--json").stdout)
    assert (told["attempt"], told["supervisor"]["state"]) == (2, "finished")
    assert "supervisor  has left, finished" in workplace.soractl("status").stdout


@pytest.mark.slow  # four commands, one of which waits for the end
def test_a_second_supervisor_stands_by(workplace):
    workplace.ranks("time.sleep(1); [(train(s, 90), time.sleep(0.1)) for s in range(1, 91)]")
    workplace.soractl("launch", "smoke", "--detach")
    first = json.loads(workplace.soractl("supervise", "--json").stdout)
    second = json.loads(workplace.soractl("supervise", "--json").stdout)
    assert (first["stands_by"], second["stands_by"]) == (False, True)
    run = RunDir(workplace.folder / "runs" / "001-smoke")
    workplace.soractl("follow", "latest")
    assert read_holder(run.supervisor).pid == first["pid"]
    os.kill(second["pid"], 15)
