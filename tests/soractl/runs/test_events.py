import json
import os
import threading
from contextlib import suppress

import pytest

from soractl.runs.events import (
    Event,
    EventKind,
    EventLog,
    TrainerEvents,
    all_events,
    metrics_rows,
    new_events,
    read_events,
)
from soractl.runs.report import event_line
from trainer.atomic_files import append_jsonl
from trainer.run_dir import create_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "smoke")


def kinds(events):
    return [(event.kind, event.attempt, event.step) for event in events]


def test_an_event_is_read_as_it_was_written(run):
    EventLog(run, "launch").write(EventKind.STARTED, attempt=1, node="n1", text="fresh")
    [event] = read_events(run)
    assert event == Event(
        time_unix_s=event.time_unix_s, kind="started", by="launch", attempt=1, node="n1",
        text="fresh",
    )  # fmt: skip


def test_half_a_line_is_passed_over_and_never_joined_to_the_next(run):
    log = EventLog(run, "launch")
    log.write(EventKind.STARTED, attempt=1)
    with run.events.open("a") as file:
        file.write('{"kind": "hung", "by": "sup')
    assert kinds(read_events(run)) == [("started", 1, None)]
    log.write(EventKind.ENDED, attempt=1)
    assert kinds(read_events(run)) == [("started", 1, None), ("ended", 1, None)]


def test_a_field_of_a_later_version_is_left_out(run):
    line = {"time_unix_s": 1.0, "kind": "dreamt", "by": "launch", "colour": "blue"}
    run.events.write_text(json.dumps(line) + "\n")
    assert read_events(run) == [Event(time_unix_s=1.0, kind="dreamt", by="launch")]


def test_writers_at_once_lose_no_line(run):
    def write(attempt):
        for step in range(100):
            EventLog(run, "follow").write(EventKind.SAVED, attempt=attempt, step=step)

    writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(kinds(read_events(run))) == [
        ("saved", attempt, step) for attempt in range(4) for step in range(100)
    ]


def test_a_full_disk_loses_the_event_and_nothing_else(small_disk):
    folder = small_disk("64k")
    run = create_run(folder, "smoke")
    with suppress(OSError):
        (folder / "rest").write_bytes(b"0" * 100_000)
    EventLog(run, "launch").write(EventKind.STARTED, attempt=1)
    assert read_events(run) == []


def test_first_steps_and_checkpoints_that_nobody_watched_are_read_from_the_trainers_files(
    run, save_checkpoint
):
    EventLog(run, "launch").write(EventKind.STARTED, attempt=1)
    rows = [{"global_step": step, "attempt": 1, "time_unix_s": 2e9 + step} for step in (1, 2)]
    append_jsonl(run.metrics, rows)
    save_checkpoint(run, 2)
    found = all_events(run)
    assert {*kinds(found)} == {("first step", 1, 1), ("saved", None, 2), ("started", 1, None)}
    assert [event.time_unix_s for event in found] == sorted(event.time_unix_s for event in found)


def test_what_a_watcher_recorded_is_not_derived_again(run, save_checkpoint):
    attempt = run.new_attempt()
    trainers = TrainerEvents(EventLog(run, "follow"), attempt)
    append_jsonl(run.metrics, [{"global_step": 1, "attempt": 1, "time_unix_s": 1.0}])
    trainers.look(1)
    run.draft_path(0, 2).mkdir()
    trainers.look(1)
    run.draft_path(0, 2).rmdir()
    save_checkpoint(run, 2)
    trainers.look(2)
    assert kinds(all_events(run)) == [("first step", 1, 1), ("save begun", 1, 2), ("saved", 1, 2)]


def test_who_begins_late_to_watch_makes_no_second_first_step(run):
    attempt = run.new_attempt()
    append_jsonl(run.metrics, [{"global_step": 1, "attempt": 1, "time_unix_s": 1.0}])
    TrainerEvents(EventLog(run, "follow"), attempt).look(7)
    assert kinds(all_events(run)) == [("first step", 1, 1)]


def test_two_watchers_record_each_event_once(run):
    attempt = run.new_attempt()
    watchers = [TrainerEvents(EventLog(run, by), attempt) for by in ("follow", "supervisor")]
    run.draft_path(0, 2).mkdir()
    for watcher in watchers:
        watcher.look(1)
        watcher.look(2)
    assert kinds(read_events(run)) == [("first step", 1, 1), ("save begun", 1, 2)]


def test_new_events_begin_after_the_known_ones(run):
    log = EventLog(run, "launch")
    log.write(EventKind.STARTED, attempt=1)
    log.write(EventKind.ENDED, attempt=1)
    assert kinds([next(new_events(run, known=1))]) == [("ended", 1, None)]


def test_a_line_names_time_attempt_kind_step_node_and_evidence(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    event = Event(
        time_unix_s=0.0, kind="hung", by="supervisor", attempt=2, step=812, node="n2",
        text="rank 5 stands still", evidence="attempts/2/evidence",
    )  # fmt: skip
    assert event_line(event).split("  ", 1)[1] == (
        "attempt 2   hung            step 812  n2: rank 5 stands still  (attempts/2/evidence)"
    )


def test_a_run_that_is_launched_and_killed_tells_its_story(workplace):
    workplace.ranks("train(1, 2); save(1); time.sleep(0.5); train(2, 2)")
    workplace.soractl("launch", "smoke")
    values = json.loads(workplace.soractl("events", "--json").stdout)
    assert {event["kind"] for event in values["events"]} == {
        "started", "first step", "saved", "ended",
    }  # fmt: skip
    assert values["events"][0]["kind"] == "started"
    assert "exit code 0" in workplace.soractl("events").stdout


@pytest.mark.parametrize("odd", [None, "noon", True, [], float("nan"), 1e300])
def test_lines_whose_times_or_counts_cannot_be_are_passed_over(run, odd):
    good = {"global_step": 2, "attempt": 1, "time_unix_s": 3.0}
    old = {"global_step": 1}  # of a trainer that did not say when
    append_jsonl(
        run.metrics,
        [old, {**good, "time_unix_s": odd}, good, {**good, "global_step": odd}, {**old, "loss": 1}],
    )
    assert metrics_rows(run) == [old, {**old, "loss": 1}, good]
    event = {"time_unix_s": 5.0, "kind": "saved", "by": "follow", "attempt": 1, "step": 2}
    names = ("time_unix_s", "kind", *(("attempt", "step") if odd is not None else ()))
    lines = [
        event,
        *({**event, name: odd} for name in names if (name, odd) != ("kind", "noon")),
    ]
    append_jsonl(run.events, lines)
    with run.events.open("a") as file:
        file.write("[]\n7\n")
    assert kinds(all_events(run)) == [("first step", 1, 2), ("saved", 1, 2)]


def test_a_row_of_an_odd_attempt_is_no_first_step(run):
    append_jsonl(run.metrics, [{"global_step": 1, "attempt": "x", "time_unix_s": 1.0}])
    assert all_events(run) == []


def test_a_checkpoint_that_is_read_later_was_saved_when_it_was(run, save_checkpoint):
    save_checkpoint(run, 4)
    [before] = all_events(run)
    folder = run.checkpoints()[0].path
    os.utime(folder, (before.time_unix_s + 600,) * 2)  # as by the mark of who reads it
    assert all_events(run) == [before]
