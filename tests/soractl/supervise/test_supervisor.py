"""A supervisor on this machine: stand-ins for ranks fail in every way and are resumed."""

import os
import threading

import pytest

from soractl.remote.connections import Connections
from soractl.runs import kill as killing
from soractl.runs.events import read_events
from soractl.supervise.act import Actor
from soractl.supervise.lease import Lease, LeaseLostError, read_holder
from soractl.supervise.supervisor import Found, Hooks
from trainer.atomic_files import RunDirError, read_json, write_json
from trainer.settings import ConfigError


def story(run):
    kept = {"hung", "crashed", "lost", "evidence", "killed", "started", "restarted", "gave up"}
    kept |= {"waiting", "ended", "quarantined"}
    return [(event.kind, event.attempt) for event in read_events(run) if event.kind in kept]


def test_a_crash_is_resumed_from_the_newest_checkpoint_to_the_end(start, supervise):
    run = start("sys.exit(1)")
    shown = []
    assert supervise(run, hooks=Hooks(notify=lambda kind, text: shown.append(kind))) == 0
    assert story(run) == [
        ("started", 1), ("crashed", 1), ("killed", 1), ("started", 2), ("restarted", 2),
        ("ended", 2),
    ]  # fmt: skip
    assert shown == ["crashed", "restarted", "finished"]
    assert read_json(run.attempts()[1].plan)["start"]["kind"] == "resume"
    holder = read_holder(run.supervisor)
    assert (holder.ended, holder.state) == (True, "finished")


def test_a_run_that_stands_still_is_hung_its_ranks_are_killed_and_it_goes_on(start, supervise):
    run = start("time.sleep(600)")
    seen = []

    def evidence(watcher, verdict):
        seen.append((watcher.attempt.number, verdict.reason.startswith("no step for ")))
        return Found(path="attempts/1/evidence", text="two rounds of stacks")

    assert supervise(run, hooks=Hooks(evidence=evidence)) == 0
    assert seen == [(1, True)]
    assert story(run)[1:4] == [("hung", 1), ("evidence", 1), ("killed", 1)]
    assert read_json(run.attempts()[0].exit)["first_failure"]["error"].startswith("no step for ")


def test_a_slow_run_whose_collectives_go_on_is_left_alone(start, supervise):
    run = start("time.sleep(3); train(3, 3); save(3); sys.exit(0)")
    seen = []

    def evidence(watcher, verdict):
        seen.append(verdict.state)
        return Found(path="attempts/1/evidence", text="collectives go on", moves=True)

    assert supervise(run, hooks=Hooks(evidence=evidence)) == 0
    assert seen == ["hung"]
    assert {number for _, number in story(run)} == {1}
    assert "killed" not in {kind for kind, _ in story(run)}
    recovered = {event.text for event in read_events(run) if event.kind == "recovered"}
    assert "collectives go on, after hung" in recovered


def test_who_goes_on_for_ever_without_a_step_is_ended_the_second_time(start, supervise):
    run = start("time.sleep(600)")
    moves = Found(text="collectives go on", moves=True)
    assert supervise(run, hooks=Hooks(evidence=lambda watcher, verdict: moves)) == 0
    kinds = [event.kind for event in read_events(run) if event.attempt == 1]
    assert [kinds.count(kind) for kind in ("hung", "evidence", "recovered", "killed")][1:] == [
        2,
        1,
        1,
    ]


def test_ranks_that_vanish_without_a_word_are_a_lost_node(start, supervise):
    run = start("os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)")
    assert supervise(run) == 0
    assert ("lost", 1) in story(run)


def test_a_run_without_a_checkpoint_begins_again_as_it_began(start, supervise):
    code = """
    if attempt.number == 1:
        train(1, 3); sys.exit(1)
    for step in (1, 2, 3):
        train(step, 3)
    """
    run = start("", code=code)
    assert supervise(run) == 0
    assert read_json(run.attempts()[1].plan)["start"]["kind"] == "fresh"


def test_the_same_error_at_the_same_step_twice_is_given_up(start, supervise):
    code = """
    from trainer.atomic_files import write_json
    train(attempt.number and 2, 6)
    write_json(attempt.rank_failure(0), {"rank": 0, "node": "x", "error": "ValueError: no",
        "remedy": None, "traceback": "Traceback", "time_unix_s": time.time()})
    sys.exit(1)
    """
    run = start("", code=code)
    assert supervise(run) == 93
    assert story(run)[-1] == ("gave up", 2)
    assert read_events(run)[-1].text == "twice the same at step 2: rank 0: ValueError: no"
    assert read_holder(run.supervisor).state == "given up"


ACCOUNT = """
    from trainer.atomic_files import write_json
    train(1, 6)
    write_json(attempt.rank_failure(0), {{"rank": 0, "node": "x", "error": {words!r},
        "remedy": None, "traceback": {trace!r}, "time_unix_s": time.time()}})
    sys.exit(1)
"""


@pytest.mark.parametrize(
    ("words", "trace", "reason"),
    [
        ("OSError: [Errno 28] No space left on device", "Traceback", "the disk is full: "),
        ("GatedRepoError: 401 Client Error", "Traceback", "no restart cures this: "),
        ("optim.lr: expected a number above 0", None, "no restart cures this: "),
    ],
    ids=["full disk", "authentication", "bad settings"],
)
def test_what_no_restart_cures_ends_with_93_after_one_attempt(
    start, supervise, words, trace, reason
):
    run = start("", code=ACCOUNT.format(words=words, trace=trace))
    assert supervise(run) == 93
    assert len(run.attempts()) == 1
    assert read_events(run)[-1].text == f"{reason}rank 0: {words}"


def test_three_attempts_without_a_new_checkpoint_end_with_93(start, supervise):
    run = start("", code="train(attempt.number, 9); sys.exit(1)")
    assert supervise(run) == 93
    assert read_events(run)[-1].text == "no new complete checkpoint in 3 attempts"


def test_too_many_starts_in_half_an_hour_end_with_93(start, supervise):
    code = "train(attempt.number, 9); save(attempt.number); train(attempt.number, 9); sys.exit(1)"
    run = start("", code=code)
    assert supervise(run, most_starts=3) == 93
    assert read_events(run)[-1].text == "3 starts within 30 minutes"


def test_a_hang_in_one_collective_at_one_step_twice_ends_with_93(start, supervise):
    run = start("", code="train(2, 6); time.sleep(600)")

    def evidence(watcher, verdict):
        """Its number begins again with each attempt."""
        number = 40 + watcher.attempt.number
        folder = watcher.attempt.evidence / "20261130T010000Z"
        folder.mkdir(parents=True)
        found = {
            "kind": "lagging",
            "ranks": [0],
            "nodes": ["n1"],
            "where": [],
            "text": f"rank 0 on n1 never entered all_reduce {number} of the default group",
            "collective": {"name": "all_reduce", "number": number, "description": "default_pg"},
        }
        write_json(folder / "verdict.json", {"verdict": found, "step": 2})
        write_json(folder / "manifest.json", {})
        return Found(path=str(folder), text=found["text"])

    assert supervise(run, hooks=Hooks(evidence=evidence)) == 93
    assert len(run.attempts()) == 2
    assert read_events(run)[-1].text == (
        "twice the same at step 2: rank 0 on n1 never entered all_reduce 42 of the default group"
    )


def test_what_settings_caused_is_given_up_at_once(start, supervise):
    code = """
    from trainer.atomic_files import write_json
    write_json(attempt.rank_failure(0), {"rank": 0, "node": "x", "error": "other data",
        "remedy": {"reset_data": True}, "traceback": None, "time_unix_s": time.time()})
    sys.exit(1)
    """
    run = start("", code=code)
    assert supervise(run) == 93
    assert len(run.attempts()) == 1


def test_a_damaged_newest_checkpoint_is_left_for_the_one_before(start, supervise):
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
    assert supervise(run) == 0
    starts = [read_json(attempt.plan)["start"]["path"] for attempt in run.attempts()]
    assert [path and path.rpartition("step")[2] for path in starts] == [None, "2", "1"]


def test_a_kill_by_a_person_is_the_end(start, supervise):
    run = start("time.sleep(600)")
    options = killing.KillOptions(run=run.name)
    killing.kill(killing.targets(run.path.parent, options, os.environ), Connections, grace_s=0)
    assert supervise(run) in (0, 143)
    assert len(run.attempts()) == 1


def test_who_only_watches_touches_nothing(start, supervise):
    run = start("sys.exit(1)")
    assert supervise(run, watch_only=True) == 1
    assert ("killed", 1) not in story(run)
    assert len(run.attempts()) == 1


def test_who_lost_the_lease_acts_no_more(start, supervise):
    run = start("time.sleep(600)")
    stolen = []

    def evidence(watcher, verdict):
        run.supervisor.unlink()
        assert Lease(run.supervisor).take()
        stolen.append(watcher.attempt.number)
        return Found()

    with pytest.raises(LeaseLostError):
        supervise(run, hooks=Hooks(evidence=evidence))
    assert stolen == [1]
    assert ("killed", 1) not in story(run)


def test_healthy_training_with_saves_is_left_alone(start, supervise):
    code = """
    for step in range(1, 60):
        train(step, 60); time.sleep(0.05)
        if step % 20 == 0: save(step)
    """
    run = start("", code=code)
    assert supervise(run) == 0
    assert story(run) == [("started", 1), ("ended", 1)]


def test_a_draft_of_an_attempt_that_was_killed_amid_its_save_is_no_save_of_the_next(
    start, supervise
):
    code = """
    if attempt.number == 1:
        train(1, 60); save(1); train(2, 60)
        run.draft_path(0, 2).mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
    for step in range(2, 61):
        train(step, 60); time.sleep(0.06)
    """
    run = start("", code=code)
    assert supervise(run) == 0
    assert story(run)[-3:] == [("started", 2), ("restarted", 2), ("ended", 2)]
    seen = {event.kind for event in read_events(run) if event.attempt == 2}
    assert not seen & {"suspect", "blind", "hung", "save begun"}


def test_a_folder_that_is_lost_for_a_while_costs_nobody_anything(start, supervise):
    code = """
    for step in range(1, 60):
        try:
            train(step, 59)
        except OSError:
            pass
        time.sleep(0.1)
    """
    run = start("", code=code)
    away = run.path.with_name("away")
    hiding = [threading.Timer(1.0, run.path.rename, (away,))]
    hiding.append(threading.Timer(4.0, away.rename, (run.path,)))
    for timer in hiding:
        timer.start()
    shown = []
    assert supervise(run, hooks=Hooks(notify=lambda kind, text: shown.append(kind))) == 0
    assert shown == ["blind", "finished"]
    assert len(run.attempts()) == 1


def test_a_typo_saved_while_it_waits_is_a_reason_to_wait(start, supervise, monkeypatch):
    run = start("sys.exit(1)")
    faults = [ConfigError(["three.toml: no setting `ndoes`"]), RunDirError("run.json is damaged")]
    restart = Actor.restart

    def fails_twice(actor, *words):
        if faults:
            raise faults.pop(0)
        return restart(actor, *words)

    monkeypatch.setattr(Actor, "restart", fails_twice)
    assert supervise(run) == 0
    waits = [event.text for event in read_events(run) if event.kind == "waiting"]
    assert waits == ["three.toml: no setting `ndoes`", "run.json is damaged"]


def test_a_host_file_damaged_while_it_acts_is_a_reason_to_wait(start, supervise, tmp_path):
    run = start("sys.exit(1)")
    hostfile, as_launched = tmp_path / "hosts.txt", read_json(run.run_json)
    hostfile.write_text("n1 slot=8\n")
    write_json(run.run_json, {**as_launched, "hostfile": str(hostfile)})
    waits = []

    def notify(kind, text):
        if kind == "waiting":
            waits.append(text)
            write_json(run.run_json, as_launched)

    assert supervise(run, hooks=Hooks(notify=notify)) == 0
    fault = f"{hostfile}:1: 'n1 slot=8': 'slot=8' is not an option"
    assert waits == [f"{run.name} waits: {fault}"]
