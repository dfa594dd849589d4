import json

import pytest

from soractl.runs.progress import Progress, ProgressReader
from trainer.atomic_files import append_jsonl, write_json
from trainer.run_dir import create_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "smoke")


class Clock:
    now_s = 50.0

    def __call__(self):
        return self.now_s


def row(step, attempt, **more):
    values = {"global_step": step, "loss": 1 / step, "s_per_step": 2.0, "clips_per_s": 8.0}
    return {**values, "attempt": attempt, "time_unix_s": 0.0, **more}


def beat(run, step, attempt, time_unix_s=0.0):
    values = {"global_step": step, "total_steps": 10, "time_unix_s": time_unix_s}
    write_json(run.heartbeat, {**values, "attempt": attempt})


def test_before_the_first_step_there_is_the_last_line_of_the_log(run, tmp_path):
    log, clock = tmp_path / "n.log", Clock()
    reader = ProgressReader(run, log, 1, clock)
    assert reader.follow() == Progress(elapsed_s=0)
    log.write_text("loading\n 10%\r 50%\r\n\n")
    clock.now_s += 2
    assert reader.follow() == Progress(elapsed_s=2, log_line=" 50%")
    assert reader.look(None, None) == Progress(log_line=" 50%")


def test_what_a_former_attempt_wrote_is_not_progress(run, tmp_path):
    append_jsonl(run.metrics, [row(1, 1), row(2, 1)])
    beat(run, 2, 1)
    reader = ProgressReader(run, tmp_path / "n.log", 2)
    assert reader.look(None, 3.0) == Progress(elapsed_s=3.0, first_loss=1.0)


def test_rows_that_name_no_attempt_count_from_the_last_smaller_step_on(run, tmp_path):
    rows = [row(step, 0) for step in (5, 6, 3, 4)]
    for one in rows:
        del one["attempt"]
    rows[0]["s_per_step"] = 100.0
    append_jsonl(run.metrics, rows)
    progress = ProgressReader(run, tmp_path / "n.log", 2).look(None, None)
    assert (progress.global_step, progress.s_per_step) == (4, 2.0)


@pytest.mark.parametrize("offset_s", [-3600.0, -60.0, 60.0, 3600.0])
def test_no_clock_of_another_machine_is_compared_with_ours(run, tmp_path, offset_s):
    """The nodes' clocks are wrong by an hour: a step is as old as we saw it, or as they say."""
    theirs = 1e9 + offset_s
    clock = Clock()
    reader = ProgressReader(run, tmp_path / "n.log", 1, clock)
    beat(run, 1, 1, theirs)
    assert reader.follow().heartbeat_age_s == 0
    clock.now_s += 4
    assert reader.follow().heartbeat_age_s == 4
    beat(run, 2, 1, theirs + 4)
    assert reader.follow().heartbeat_age_s == 0
    assert reader.look(theirs + 9, None).heartbeat_age_s == 5
    assert reader.look(None, None).heartbeat_age_s is None


@pytest.mark.parametrize(
    ("head_unix_s", "elapsed_s", "age_s"),
    [
        (1e9 - 3600, 900.0, None),  # set back since the step
        (1e9 + 3600, 900.0, None),  # set forward: no step is older than the attempt
        (1e9 + 3600, 4000.0, 3600.0),
        (1e9 + 3600, None, 3600.0),
        (1e9 - 1, 900.0, 0.0),  # the step ended after the node had answered
        (0, 900.0, None),
        (10**18, 900.0, None),
    ],
)
def test_an_age_that_cannot_be_is_unknown(run, tmp_path, head_unix_s, elapsed_s, age_s):
    beat(run, 1, 1, 1e9)
    reader = ProgressReader(run, tmp_path / "n.log", 1)
    assert reader.look(head_unix_s, elapsed_s).heartbeat_age_s == age_s


def test_a_heartbeat_of_an_earlier_attempt_that_names_none_has_no_age(run, tmp_path):
    write_json(run.heartbeat, {"global_step": 7, "total_steps": 9, "time_unix_s": 1e9})
    progress = ProgressReader(run, tmp_path / "n.log", 2).look(1e9 + 7200, 60.0)
    assert (progress.heartbeat_age_s, progress.is_stalled) == (None, False)


def test_metrics_that_were_emptied_are_read_from_their_begin(run, tmp_path):
    reader = ProgressReader(run, tmp_path / "n.log", 1, Clock())
    append_jsonl(run.metrics, [row(1, 1), row(2, 1), row(3, 1)])
    assert reader.follow().loss == 1 / 3
    run.metrics.write_bytes(b"")
    append_jsonl(run.metrics, [row(4, 1)])
    assert reader.follow().loss == 0.25


def test_lines_are_read_as_they_come_and_half_a_line_later(run, tmp_path):
    reader = ProgressReader(run, tmp_path / "n.log", 1, Clock())
    append_jsonl(run.metrics, [row(1, 1), row(2, 1, s_per_step=4.0)])
    line = json.dumps(row(4, 1)) + "\n"
    with run.metrics.open("a") as file:
        file.write(line[:10])
    beat(run, 3, 1)
    first = Progress(
        elapsed_s=0,
        global_step=3,
        total_steps=10,
        loss=0.5,
        first_loss=1.0,
        s_per_step=3.0,
        clips_per_s=8.0,
        heartbeat_age_s=0,
    )
    assert reader.follow() == first
    assert first.eta_s == 21.0
    with run.metrics.open("a") as file:
        file.write(line[10:])
    assert reader.follow().loss == 0.25


def test_damaged_lines_and_files_are_passed_over(run, tmp_path):
    append_jsonl(run.metrics, [row(1, 1)])
    with run.metrics.open("a") as file:
        file.write('{"global_st\n[1]\n7\n\x00\x00\n')
    append_jsonl(run.metrics, [row(2, 1)])
    run.heartbeat.write_text("")
    progress = ProgressReader(run, tmp_path / "n.log", 1).look(None, None)
    assert (progress.global_step, progress.loss) == (2, 0.5)


def test_a_file_that_cannot_be_opened_is_looked_at_again(run, tmp_path):
    reader = ProgressReader(run, tmp_path / "n.log", 1, Clock())
    beat(run, 1, 1)
    assert reader.follow().global_step == 1
    run.heartbeat.unlink()
    run.heartbeat.symlink_to(run.heartbeat)  # open() fails with ELOOP, as with ESTALE on NFS
    run.metrics.symlink_to(run.metrics)
    assert reader.follow().global_step == 1
    run.heartbeat.unlink()
    beat(run, 2, 1)
    assert reader.follow().global_step == 2


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(), "starting"),
        (
            Progress(global_step=5, total_steps=9, s_per_step=4.0, heartbeat_age_s=64),
            "step 5/9  4 s/step  no step for 1 min 04 s, usual 4 s",
        ),
        (Progress(elapsed_s=65, log_line="loading"), "starting (1 min 05 s)  loading"),
        (Progress(elapsed_s=1, global_step=3), "step 3"),
        (
            Progress(
                elapsed_s=1,
                global_step=120,
                total_steps=4000,
                loss=0.12341,
                s_per_step=3.2111,
                clips_per_s=12.44,
            ),
            "step 120/4000  loss 0.1234  3.21 s/step  12.4 clips/s  ETA 3 h 27 min",
        ),
    ],
)
def test_progress_is_one_line(progress, line):
    assert progress.one_line() == line


@pytest.mark.parametrize("odd", [None, "x", [], -1, 10**30, float("nan"), True])
def test_numbers_that_cannot_be_are_unknown(run, tmp_path, odd):
    good = {"global_step": 3, "total_steps": 9, "attempt": 1, "time_unix_s": 900.0}
    for name in ("global_step", "total_steps", "time_unix_s"):
        write_json(run.heartbeat, {**good, name: odd})
        seen = ProgressReader(run, tmp_path / "log", 1).look(1000.0, 5.0)
        assert seen.one_line().startswith(("starting", "step 3"))
    row = {"global_step": 4, "attempt": 1, "s_per_step": 2.0, "clips_per_s": 1.0, "loss": 1.0}
    write_json(run.heartbeat, good)
    for name in row:
        run.metrics.write_text(f"{json.dumps({**row, name: odd})}\n")
        seen = ProgressReader(run, tmp_path / "log", 1).look(1000.0, 5.0)
        assert seen.one_line().startswith("step 3/9")
