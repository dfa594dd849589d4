import io
import json
import shutil
import subprocess
import sys

import pytest

from tests.trainer.checkpoints.test_integrity import flipped
from tests.trainer.distributed.test_node_group import files_opened
from trainer import sample


def test_the_command_writes_a_video_of_every_prompt(random_checkpoint, tmp_path, write_video):
    clip = write_video(tmp_path / "clip.mp4", 17)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f'a cat\na dog {{"reference_path": "{clip}", "mask_strategy": "0"}}\n')
    options = ["--frames", "17", "--resolution", "144p", "--out", str(tmp_path / "out")]
    sample.main([str(random_checkpoint.path), "--prompts", str(prompts), *options])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    kinds = (".json", ".mp4", ".poster.png")
    assert written == [f"sample_000{n}{kind}" for n in (0, 1) for kind in kinds]
    sample.main([str(random_checkpoint.path), "--prompt", "a cat", *options, "--frames", "1"])
    assert (tmp_path / "out" / "sample_0000.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to sample; give --prompt TEXT or --prompts FILE"),
        (["--prompt", "a", "--loops", "0"], "--loops 0; expected at least 1"),
        (["--prompt", "a", "--fps", "0"], "--fps 0; expected at least 1"),
        (["--prompt", "a", "--fps", "-3"], "--fps -3; expected at least 1"),
        (
            ["--prompt", "a", "--loops", "2", "--frames", "51", "--mask-strategy", "x"],
            "prompt 'a': mask strategy 'x': expected up to 6 numbers",
        ),
        (
            ["--prompt", "a", "--loops", "2", "--frames", "17"],
            "give `--frames` a multiple of 17, and at least 34",
        ),
        (
            ["--prompt", "a", "--reference", "none.mp4", "--mask-strategy", "0"],
            "reference none.mp4 cannot be read: No such file or directory",
        ),
        (["--prompt", "a", "--reference", "x.png"], "no mask strategy that says where they go"),
        (["--prompts", "none.txt"], "none.txt cannot be read"),
        (["--prompt", "a", "--resolution", "1p"], "1p"),
    ],
)
def test_a_users_mistake_is_one_sentence(random_checkpoint, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        sample.main([str(random_checkpoint.path), *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("/nope", "no complete checkpoint in /nope"),
        ("nope", "no complete checkpoint in nope, runs/nope"),
        ("epoch0-global_step1", "epoch0-global_step1 is no complete checkpoint: no "),
    ],
)
def test_nothing_to_sample_from_is_one_error_with_soractls_exit_code(capsys, checkpoint, message):
    with pytest.raises(SystemExit) as caught:
        sample.main([checkpoint, "--prompt", "a cat"])
    assert caught.value.code == 6
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count(checkpoint) == message.count(checkpoint)


def test_a_checkpoint_is_kept_while_it_is_read_and_nothing_is_made_of_a_damaged_one(
    random_checkpoint, tmp_path, capsys
):
    arguments = [
        str(random_checkpoint.path),
        "--prompt",
        "a cat",
        "--frames",
        "1",
        "--out",
        str(tmp_path),
    ]
    with files_opened(random_checkpoint.path) as opened:
        sample.main([*arguments, "--resolution", "144p"])
    assert len([name for name in opened if name.startswith(".read-by-")]) == 1
    assert random_checkpoint.readers() == []
    file = random_checkpoint.ema / "weights.safetensors"
    with flipped(file), pytest.raises(SystemExit) as caught:
        sample.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {file} is damaged: ")


@pytest.fixture
def served(monkeypatch):
    """Answers to requests, one a line, as soractl sends them."""

    def ask(*requests):
        answers = io.StringIO()
        monkeypatch.setattr(
            sys, "stdin", io.StringIO("".join(f"{json.dumps(r)}\n" for r in requests))
        )
        monkeypatch.setattr(sys, "stdout", answers)
        sample.main(["--serve"])
        found = [json.loads(line) for line in answers.getvalue().splitlines()]
        return [answer for answer in found if "steps" not in answer]

    return ask


def test_it_ends_in_the_middle_of_its_work_when_whoever_asked_is_killed():
    """Else it would make a video that another server makes again."""
    start = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    program = "import os; parent = os.getppid(); print(parent, flush=True)"
    program += "; from trainer import sample; sample._end_with(parent)"
    argv = [sys.executable, "-c", f"{start}; time.sleep(600)", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as asking:
        assert int(asking.stdout.readline()) == asking.pid
        asking.kill()
        assert asking.stdout.read() == ""  # the program had it open too, and has ended


def planned(served, checkpoint, out):
    request = [str(checkpoint), "--prompt=a cat", "--frames=1", "--steps=1", "--resolution=144p"]
    (answer,) = served({"plan": [*request, f"--out={out}"]})
    return answer["tasks"][0]


def test_a_task_that_fails_is_one_error_and_the_next_one_is_made(
    served, random_checkpoint, tmp_path
):
    run = tmp_path / random_checkpoint.path.parent.parent.name
    shutil.copytree(random_checkpoint.path.parent.parent, run)
    removed = run / "checkpoints" / random_checkpoint.name
    gone = planned(served, removed, tmp_path / "gone")
    shutil.rmtree(removed)
    blocked = planned(served, random_checkpoint.path, tmp_path / "file" / "below")
    (tmp_path / "file").write_text("no folder")
    good = planned(served, random_checkpoint.path, tmp_path / "out")
    *failed, made = served(*({"perform": [task]} for task in (gone, blocked, good)))
    assert failed == [
        {"error": f"{removed} is no complete checkpoint: no checkpoint.json", "exit_code": 6},
        {
            "error": f"Not a directory: {tmp_path / 'file' / 'below'}",
            "exit_code": 1,
            "disk_full": False,
        },
    ]
    assert made["made"] == [good["file"]]


def test_a_full_disk_is_one_error(served, random_checkpoint, small_disk):
    disk = small_disk("8k")
    (disk / "filler").write_bytes(bytes(8192))
    task = planned(served, random_checkpoint.path, disk / "out")
    (answer,) = served({"perform": [task]})
    assert answer["error"].startswith("No space left on device")
    assert (answer["exit_code"], answer["disk_full"]) == (1, True)
