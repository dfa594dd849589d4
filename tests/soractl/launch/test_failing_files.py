"""Commands beside files that cannot be opened just now, or have no locks."""

import errno

import pytest

from tests import preloaded
from trainer.atomic_files import read_json

pytestmark = pytest.mark.slow  # whole launches
STEPS = "for step in range(1, 5):\n    train(step, 4)\n    time.sleep(0.2)\nsave(4)"
READ_WHILE_FOLLOWING = (
    *("heartbeat.json", "metrics.jsonl", ".exit", "exit.json", "plan.json", "config.json"),
    *(".log", "events.jsonl", "run.json", "stopped.json", "checkpoint.json"),
)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return preloaded.compiled("preloaded_failures", tmp_path_factory.mktemp("library"))


@pytest.mark.parametrize(("error", "every"), [(errno.ESTALE, 2), (errno.EIO, 3)])
def test_a_launch_looks_again_at_files_that_fail_to_open(workplace, library, error, every):
    workplace.ranks(STEPS)
    environ = preloaded.failing_opens(library, error, every, *READ_WHILE_FOLLOWING)
    done = workplace.soractl("launch", "smoke", "--force", environ=environ)
    assert "001-smoke ended well at step 4 after " in done.stdout
    assert "1 complete checkpoint" in done.stdout


@pytest.mark.parametrize("file", ["heartbeat.json", "metrics.jsonl", ".log"])
def test_a_launch_goes_without_a_file_that_never_opens(workplace, library, file):
    workplace.ranks(STEPS)
    environ = preloaded.failing_opens(library, errno.ESTALE, 1, file)
    done = workplace.soractl("launch", "smoke", "--force", environ=environ)
    assert "001-smoke ended well" in done.stdout


def test_an_end_that_cannot_be_read_anywhere_is_unknown_until_it_can(workplace, library):
    workplace.ranks("train(1, 1)")
    workplace.soractl("launch", "smoke", "--force")
    (workplace.folder / "runs/001-smoke/attempts/1/exit.json").unlink()
    environ = preloaded.failing_opens(library, errno.ESTALE, 1, ".exit")
    for _ in range(2):
        done = workplace.soractl("status", environ=environ)
        assert "state    unknown " in done.stdout
        assert "how it ended cannot be read there" in done.stdout
    assert "state    ended " in workplace.soractl("status").stdout


def test_a_file_that_never_opens_is_a_sentence_and_its_run_unknown(workplace, library):
    workplace.ranks(STEPS)
    workplace.soractl("launch", "smoke", "--force")
    plan = workplace.folder / "runs/001-smoke/attempts/1/plan.json"
    environ = preloaded.failing_opens(library, errno.EIO, 1, "plan.json")
    for words in (("status",), ("logs",), ("follow",), ("resume", "1", "--force")):
        done = workplace.soractl(*words, environ=environ, code=1)
        assert done.stderr.splitlines()[-1] == f"error: {plan}: Input/output error"
    done = workplace.soractl("runs", environ=environ)
    row, count = done.stdout.splitlines()[-2:]
    assert row.split()[:2] == ["001-smoke", "unknown"]
    assert "cannot be read: Input/output error" in row
    assert count == "1 run: 1 unknown"


def test_a_checkpoint_that_cannot_be_read_is_never_taken_for_none(workplace, library):
    workplace.ranks("train(1, 9)\nsave(attempt.number)")
    workplace.soractl("launch", "smoke", "--force")
    workplace.soractl("resume", "1", "--force")
    name = "epoch0-global_step2/checkpoint.json"
    environ = preloaded.failing_opens(library, errno.EIO, 1, name)
    why = "checkpoint.json cannot be read: Input/output error"
    refused = workplace.soractl("resume", "1", "--force", environ=environ, code=2)
    folder = workplace.folder / "runs/001-smoke/checkpoints/epoch0-global_step2"
    assert refused.stderr.splitlines()[-1] == f"error: {folder} may be complete: {why}"
    listed = workplace.soractl("ckpt", "list", "1", environ=environ)
    assert f"epoch0-global_step2: {why}" in listed.stdout
    assert "1 complete checkpoint" in workplace.soractl("status", environ=environ).stdout


def test_a_file_system_without_locks_is_no_end(workplace, library, tmp_path):
    workplace.ranks("train(attempt.number, 2)\nsave(attempt.number)")
    environ = preloaded.no_locks(library)
    for words in (
        ("launch", "smoke", "--force"),
        ("resume", "1", "--force"),
        *(("status",), ("runs",), ("kill",), ("ckpt", "prune", "1")),
        ("sync", "1", "--to", str(tmp_path / "copy")),
    ):
        workplace.soractl(*words, environ=environ)
    run = workplace.folder / "runs/001-smoke"
    assert read_json(run / "attempts/2/exit.json")["exit_code"] == 0
    assert (tmp_path / "copy/001-smoke/checkpoints/epoch0-global_step2/weights").exists()
