import pytest

from soractl.errors import SoractlError
from soractl.remote.nodes import Node
from soractl.runs.node_log import LogOptions, follow, last_line, logs_of, tail
from soractl.runs.record import node_as_json
from trainer.atomic_files import write_json
from trainer.run_dir import create_run


def test_a_log_that_is_not_there_has_no_lines(tmp_path):
    assert tail(tmp_path / "n.log") == []


def test_only_the_end_of_a_long_log_is_read_and_bad_bytes_do_no_harm(tmp_path):
    log = tmp_path / "n.log"
    log.write_bytes(b"a\n" * 1000 + b"\xff\n\nlast\n")
    assert tail(log, last_bytes=12) == ["a", "a", "\ufffd", "last"]


def test_the_last_line_is_one_that_is_not_blank(tmp_path):
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


@pytest.fixture
def run(tmp_path):
    """A run with two attempts on n1 (ranks 0 and 1) and n2 (ranks 2 and 3)."""
    run = create_run(tmp_path, "smoke")
    for _ in range(2):
        attempt = run.new_attempt()
        nodes = [{**node_as_json(Node(name)), "ranks": 2} for name in ("n1", "n2")]
        plan = {"run_id": str(run.path), "nodes": nodes, "ssh": {}, "started_unix_s": 0.0}
        write_json(attempt.plan, plan)
        for name in ("n1", "n2"):
            attempt.node_log(name).write_text(f"{name} in attempt {attempt.number}\n")
    return run


def shown(run, count=40, **options):
    logs = logs_of(run, LogOptions(**options))
    return [(log.node, line) for log in logs for line in log.last(count)]


def test_the_newest_attempts_head_node_is_shown_or_what_is_named(run):
    assert shown(run) == [("n1", "n1 in attempt 2")]
    assert shown(run, attempt=1, node="n2") == [("n2", "n2 in attempt 1")]
    assert shown(run, every_node=True) == [("n1", "n1 in attempt 2"), ("n2", "n2 in attempt 2")]


def test_a_run_that_never_started_has_no_log(tmp_path):
    with pytest.raises(SoractlError, match="001-smoke never started"):
        logs_of(create_run(tmp_path, "smoke"), LogOptions())


def test_a_ranks_own_lines_are_found_on_its_node_however_far_back(run):
    log = run.attempts()[1].node_log("n2")
    own = ["01:02:03 rank 3: far back", "[rank3]: torch says", "rank 3: end"]
    others = "01:02:04 rank 2: rank 3: no\nrank 33: no\n" * 20_000
    log.write_text(f"{own[0]}\n{others}{own[1]}\n{own[2]}\n")
    assert shown(run, rank=3) == [("n2", line) for line in own]
    assert shown(run, 1, rank=3) == [("n2", own[2])]


def test_more_lines_than_one_read_holds_are_shown(run):
    log = run.attempts()[1].node_log("n1")
    log.write_text("".join(f"line {i} {'x' * 100}\n" for i in range(5000)))
    lines = shown(run, 3000)
    assert (len(lines), lines[0][1].split()[1]) == (3000, "2000")
    assert shown(run, 0) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempt": 3}, "001-smoke has no attempt 3"),
        ({"rank": 4}, "001-smoke has the ranks 0 to 3"),
        ({"rank": 3, "node": "n1"}, "rank 3 runs on n2, not on n1"),
        ({"node": "n3"}, "001-smoke does not run on n3"),
        ({"every_node": True, "rank": 1}, "--all shows every node: leave out --node and --rank"),
    ],
)
def test_what_the_run_does_not_have_is_one_sentence(run, options, message):
    with pytest.raises(SoractlError) as caught:
        logs_of(run, LogOptions(**options))
    assert caught.value.message == message


def test_one_log_that_cannot_be_read_does_not_cost_the_others(run):
    log = run.attempts()[1].node_log("n1")
    log.unlink()
    log.mkdir()
    assert shown(run, every_node=True) == [
        ("n1", "(cannot be read: Is a directory)"),
        ("n2", "n2 in attempt 2"),
    ]


def test_new_lines_of_all_nodes_come_as_they_are_written_and_none_is_lost(run):
    attempt = run.attempts()[1]
    paths = [attempt.node_log(name) for name in ("n1", "n2")]
    logs = logs_of(run, LogOptions(every_node=True))
    assert [log.last(0) for log in logs] == [[], []]
    steps = iter([(0, "a\nhal"), (1, "b\n"), (0, "f\n"), (1, "c\n 10%\r 20%\n")])

    class Writing(type(logs[0])):
        @property
        def ended(self):
            """Looked at once a round: so it writes what came in that round."""
            which, text = next(steps, (0, ""))
            with paths[which].open("a") as file:
                file.write(text)
            return not text

    logs[0].__class__ = Writing
    logs[1].__class__ = type("Ended", (type(logs[1]),), {"ended": True})
    assert [(log.node, line) for log, line in follow(logs)] == [
        ("n1", "a"),
        ("n2", "b"),
        ("n1", "half"),
        ("n2", "c"),
        ("n2", " 20%"),
    ]


def test_a_log_has_ended_when_its_node_or_the_attempt_has(run):
    first, second = logs_of(run, LogOptions(every_node=True))
    attempt = run.attempts()[1]
    assert (first.ended, second.ended) == (False, False)
    attempt.node_exit("n2").touch()
    assert (first.ended, second.ended) == (False, True)
    attempt.exit.touch()
    assert (first.ended, second.ended) == (True, True)
