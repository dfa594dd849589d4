import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.runs.find import find_run
from soractl.runs.node_log import follow, last_line, log_of, tail
from tests.soractl.runs.test_find import attempt_on


def test_a_log_that_is_not_there_has_no_lines(tmp_path):
    assert tail(tmp_path / "n.log") == []


def test_only_the_end_of_a_long_log_is_read_and_bad_bytes_do_no_harm(tmp_path):
    log = tmp_path / "n.log"
    log.write_bytes(b"a\n" * 1000 + b"\xff\n\nlast\n")
    assert tail(log, last_bytes=12) == ["a", "a", "\ufffd", "last"]


def test_the_last_line_is_one_that_says_something(tmp_path):
    log = tmp_path / "n.log"
    noise = (
        "[W1125 12:40:01.512345678 socket.cpp:767] [c10d] The client socket has failed to connect "
        "to [localhost]:29500 (errno: 99 - Cannot assign requested address).\n"
        "W1125 12:40:01.100000 4242 torch/distributed/run.py:793] ****\n"
        "[rank0]:[W1125 12:40:02.000000000 ProcessGroupNCCL.cpp:4115] using GPU 0\n"
        "wandb: Tracking run with wandb version 0.22.3\n"
        "/venv/lib/python3.11/site-packages/x.py:12: FutureWarning: old\n"
        "  warnings.warn(\n"
    )
    log.write_text(noise)
    assert last_line(log) == ""
    log.write_text(f"loading the networks\n{noise}")
    assert last_line(log) == "loading the networks"


def test_new_lines_are_followed_until_the_end(tmp_path):
    log = tmp_path / "n.log"
    log.write_text("old\n")
    steps = iter(["new 1\nnew", " 2\n", "rest\n"])

    def ended():
        text = next(steps)
        with log.open("a") as file:
            file.write(text)
        return text == "rest\n"

    assert list(follow(log, ended)) == ["new 1", "new 2", "rest"]


def test_the_log_of_a_node_is_that_of_the_newest_attempt(root):
    run = find_run(root, "1")
    with pytest.raises(SoractlError, match="001-stage1 never started"):
        log_of(run, None)
    attempt_on(run, Node("n1"))
    newest = attempt_on(run, Node("n1"), Node("n2"))
    log, ended = log_of(run, None)
    assert (log, ended()) == (newest.node_log("n1"), False)
    newest.node_exit("n1").write_text("0\n")
    assert ended()
    assert log_of(run, "n2")[0] == newest.node_log("n2")
    with pytest.raises(SoractlError) as caught:
        log_of(run, "n3")
    assert caught.value.message == "001-stage1 does not run on n3"
