import json

import pytest

from soractl.runs.progress import Progress, ProgressReader
from trainer.atomic_files import append_jsonl, write_json
from trainer.run_dir import create_run


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "smoke")


def row(step, time_unix_s, **more):
    values = {"global_step": step, "loss": 1 / step, "s_per_step": 2.0, "clips_per_s": 8.0}
    return {**values, "time_unix_s": time_unix_s, **more}


def beat(run, step, time_unix_s):
    write_json(run.heartbeat, {"global_step": step, "total_steps": 10, "time_unix_s": time_unix_s})


def test_before_the_first_step_there_is_the_last_line_of_the_log(run, tmp_path):
    log = tmp_path / "n.log"
    reader = ProgressReader(run, log, 100)
    assert reader.read(101) == Progress(elapsed_s=1)
    log.write_text("loading\n 10%\r 50%\r\n\n")
    assert reader.read(102) == Progress(elapsed_s=2, log_line=" 50%")
    log.write_text("loading\n 10%\r 50%")
    assert reader.read(103) == Progress(elapsed_s=3, log_line=" 50%")


def test_what_a_former_attempt_wrote_is_not_progress(run, tmp_path):
    append_jsonl(run.metrics, [row(1, 90), row(2, 95)])
    beat(run, 2, 95)
    reader = ProgressReader(run, tmp_path / "n.log", 100)
    assert reader.read(101) == Progress(elapsed_s=1, first_loss=1.0)


def test_lines_are_read_as_they_come_and_half_a_line_later(run, tmp_path):
    reader = ProgressReader(run, tmp_path / "n.log", 100)
    append_jsonl(run.metrics, [row(1, 101), row(2, 103, s_per_step=4.0)])
    line = json.dumps(row(4, 105)) + "\n"
    with run.metrics.open("a") as file:
        file.write(line[:10])
    beat(run, 3, 104)
    first = Progress(
        elapsed_s=6,
        global_step=3,
        total_steps=10,
        loss=0.5,
        first_loss=1.0,
        s_per_step=3.0,
        clips_per_s=8.0,
        heartbeat_age_s=2,
    )
    assert reader.read(106) == first
    assert first.eta_s == 21.0
    with run.metrics.open("a") as file:
        file.write(line[10:])
    assert reader.read(106).loss == 0.25


@pytest.mark.parametrize(
    ("progress", "line"),
    [
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
