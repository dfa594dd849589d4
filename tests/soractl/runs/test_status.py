import json
import os
import time
from contextlib import contextmanager, nullcontext

import pytest
import typer

from soractl.account import goodput
from soractl.errors import Fault, FaultKind, SoractlError
from soractl.queue.record import JobRecord, write_record
from soractl.queue.slurm import Slurm
from soractl.remote.connections import Connections, SshOptions
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.runs import commands, report
from soractl.runs.node_states import NO_ANSWER, NodeState
from soractl.runs.post_mortem import read_outcome
from soractl.runs.record import node_as_json
from soractl.runs.status import RunStatus, list_runs, looks, read_status
from trainer.atomic_files import append_jsonl, write_json
from trainer.run_dir import create_run

NODES = (Node("n1"), Node("n2"))
SSH = {"connect_timeout_s": 1}


class Nodes:
    """Nodes that answer what the test says, to whoever asks about any run."""

    def __init__(self, **answers):
        self.answers = {"n1": (3, 2, None), "n2": (3, 2, None), **answers}
        self.agents = {}
        self.asked = []

    def __call__(self, node, request, deadline_s):
        self.asked.append(node.name)
        answer = self.answers[node.name]
        if answer is None:
            return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "no route"))
        processes, ranks, code = answer
        lines = [f"=== processes {processes}", f"=== ranks {ranks}", "=== clock 1000"]
        lines += [f"=== agents {self.agents.get(node.name, 1)}"]
        lines += [f"=== exit {code}"] if code is not None else []
        return NodeResult(node, stdout="\n".join(lines) + "\n", exit_code=0)

    @contextmanager
    def connect(self, ssh):
        yield self


def begin(root, stage="smoke"):
    """A run whose first attempt was started on n1 and n2."""
    run = create_run(root, stage)
    write_json(run.run_json, {})
    attempt = run.new_attempt()
    nodes = [{**node_as_json(node), "ranks": 2} for node in NODES]
    plan = {"run_id": str(run.path), "nodes": nodes, "ssh": SSH, "started_unix_s": 0.0}
    write_json(attempt.plan, plan)
    return run, attempt


def beat(run, step, total, time_unix_s):
    values = {"global_step": step, "total_steps": total, "attempt": 1}
    write_json(run.heartbeat, {**values, "time_unix_s": time_unix_s})


def end(attempt, *codes):
    for node, code in zip(NODES, codes, strict=True):
        attempt.node_exit(node.name).write_text(f"{code}\n")


def test_a_failed_rank_is_named_while_processes_go_on(tmp_path):
    """As ranks that cannot end: nothing else says why no step comes."""
    run, attempt = begin(tmp_path, "smoke")
    beat(run, 3, 9, 996.0)
    assert read_status(run, Nodes()).failing is None
    for rank in (0, 1, 3):
        account = {"rank": rank, "error": "RuntimeError: Timed out after 60 s", "traceback": "T"}
        write_json(attempt.rank_failure(rank), {**account, "time_unix_s": 900.0 + rank})
    status = read_status(run, Nodes())
    assert (status.state, status.failing.rank, status.failing.node) == ("running", 2, "n2")
    words = "rank 2 on n2: the other ranks waited for it until the collective timeout"
    assert f"failing    {words}; processes of the run go on" in report.status_lines(status)
    assert status.as_json()["failing"]["rank"] == 2
    [row] = list_runs(tmp_path, Nodes().connect)
    assert row.note == "ranks have failed, and processes go on"


def test_runs_are_listed_newest_first_and_only_nodes_of_living_ones_are_asked(
    tmp_path, save_checkpoint
):
    create_run(tmp_path, "stage1")
    ended, attempt = begin(tmp_path, "stage2")
    end(attempt, 0, 0)
    beat(ended, 9, 9, 500.0)
    save_checkpoint(ended, 9)
    _, attempt = begin(tmp_path, "stage3")
    failure = {"node": "n2", "error": "ValueError:\nboom", "rank": 3, "log_tail": []}
    write_json(attempt.exit, {"exit_code": 1, "ended_unix_s": 5.0, "first_failure": failure})
    living, _ = begin(tmp_path, "stage4")
    beat(living, 3, 9, 996.0)
    _, attempt = begin(tmp_path, "stage5")
    attempt.plan.write_text("{")
    nodes = Nodes()
    rows = list_runs(tmp_path, nodes.connect)
    table, count = report.runs_parts(rows)
    when = time.strftime("%m-%d %H:%M", time.localtime(500.0))
    damaged_row, *others = [[*row[:5], *row[6:]] for row in table.rows]
    assert damaged_row[:6] == ["005-stage5", "damaged", "-", "-", "-", "-"]
    assert damaged_row[6].startswith(str(tmp_path))
    assert others == [
        ["004-stage4", "running", "3/9", "4 s ago", "-", "n[1-2]", "-"],
        ["003-stage3", "failed", "-", "-", "-", "n[1-2]", "rank 3 on n2: ValueError: boom"],
        ["002-stage2", "ended", "9/9", when, "9", "n[1-2]", "-"],
        ["001-stage1", "never started", "-", "-", "-", "-", "-"],
    ]
    assert count == "5 runs: 1 damaged, 1 running, 1 failed, 1 ended, 1 never started"
    assert sorted(nodes.asked) == ["n1", "n2"]
    shown = json.loads(json.dumps(report.runs_json(rows)))["runs"]
    assert (shown[1]["run"], shown[1]["stage"], shown[1]["last_step_age_s"]) == (
        "004-stage4",
        "stage4",
        4.0,
    )
    assert shown[3]["size_bytes"] == sum(
        path.stat().st_size for path in ended.path.rglob("*") if path.is_file()
    )
    assert all(len(line) <= 60 for line in table.lines(60) if str(tmp_path) not in line)


def test_a_folder_without_runs_is_exit_code_6(tmp_path):
    with pytest.raises(SoractlError, match="there is no run in") as caught:
        list_runs(tmp_path, Nodes().connect)
    assert caught.value.exit_code == 6


def test_a_node_that_lost_its_launcher_is_named_and_the_run_goes_on(tmp_path):
    run, attempt = begin(tmp_path)
    attempt.node_exit("n2").write_text("137\n")
    status = read_status(run, Nodes(n2=(2, 2, 137)))
    assert status.state == "running"
    assert report.status_lines(status)[-1].split(maxsplit=1) == [
        "n2",
        "its launcher is gone, 2 ranks of the run go on",
    ]


def test_ranks_without_torchrun_are_shown_before_any_exit_code(tmp_path):
    """As `kill -9` of torchrun leaves them: what started it waits for the ranks' output."""
    run, _ = begin(tmp_path)
    nodes = Nodes()
    nodes.agents = {"n1": 1, "n2": 0}
    lines = report.status_lines(read_status(run, nodes))
    assert lines[-1].split(maxsplit=1) == ["n2", "its launcher is gone, 2 ranks of the run go on"]
    assert not any(line.startswith("n1 ") for line in lines)


def test_processes_that_are_no_ranks_do_not_keep_a_failed_node_alive(tmp_path):
    run, attempt = begin(tmp_path)
    end(attempt, 1, 1)
    assert read_status(run, Nodes(n1=(1, 0, 1), n2=(0, 0, 1))).state == "failed"


def test_a_node_that_is_off_has_failed_once_all_others_have_ended(tmp_path):
    """Nobody followed: `status` names the node, and what goes on without it."""
    run, attempt = begin(tmp_path)
    assert read_status(run, Nodes(n2=None)).state == "running"
    attempt.node_exit("n1").write_text("1\n")
    status = read_status(run, Nodes(n1=(0, 0, 1), n2=None))
    assert (status.state, status.first_failure.node, status.first_failure.error) == (
        "failed",
        "n2",
        "the node does not answer (unreachable: no route)",
    )


def test_an_end_that_nobody_followed_is_noted_once_and_no_node_is_asked_again(tmp_path):
    run, attempt = begin(tmp_path)
    end(attempt, 1, 137)
    os.utime(attempt.node_exit("n2"), (2e9, 2e9))
    nodes = Nodes(n1=(0, 0, 1), n2=(0, 0, 137))
    first = read_status(run, nodes)
    assert sorted(nodes.asked) == ["n1", "n2"]
    outcome = read_outcome(attempt)
    assert (outcome.exit_code, outcome.ended_unix_s) == (1, 2e9)
    again = read_status(run, nodes)
    [row] = list_runs(tmp_path, nodes.connect)
    assert (again.state, again.first_failure) == ("failed", first.first_failure)
    assert (row.state, row.failure, len(nodes.asked)) == ("failed", first.first_failure, 2)


def test_a_silent_node_is_waited_for_until_the_end_is_long_ago(tmp_path):
    run, attempt = begin(tmp_path)
    attempt.node_exit("n1").write_text("1\n")
    nodes = Nodes(n1=(0, 0, 1), n2=None)
    assert read_status(run, nodes).state == "failed"
    assert read_outcome(attempt) is None
    for path in attempt.path.iterdir():
        os.utime(path, (1e9, 1e9))
    assert read_status(run, nodes).state == "failed"
    assert read_outcome(attempt).first_failure.lost == ("n2",)


def test_a_supervisor_notes_the_end_itself(tmp_path):
    run, attempt = begin(tmp_path)
    end(attempt, 1, 1)
    run.supervisor.write_text("{}")
    assert read_status(run, Nodes(n1=(0, 0, 1), n2=(0, 0, 1))).state == "failed"
    assert read_outcome(attempt) is None


def test_where_all_launchers_have_ended_the_nodes_are_asked_for_a_moment_only(tmp_path):
    run, attempt = begin(tmp_path)
    deadlines = []

    def ask(node, request, deadline_s):
        deadlines.append(deadline_s)
        return NodeResult(node, fault=Fault(FaultKind.UNREACHABLE, "no route"))

    read_status(run, ask)
    end(attempt, 1, 1)
    read_status(run, ask)
    assert max(deadlines[:2]) > 5 > 3.1 > max(deadlines[2:])


def test_many_odd_nodes_are_one_line(tmp_path):
    nodes = [NodeState(f"n{i:03}", fault=NO_ANSWER) for i in range(1, 201)]
    status = RunStatus(run=create_run(tmp_path, "smoke"), stage="smoke", state="unknown",
                       nodes=tuple(nodes))  # fmt: skip
    assert report.status_lines(status)[-1] == f"n[001-200]  {NO_ANSWER}"


def test_an_exit_code_seen_here_counts_though_its_node_is_off_now(tmp_path):
    run, attempt = begin(tmp_path)
    end(attempt, 0, 1)
    assert read_status(run, Nodes(n1=(0, 0, 0), n2=None)).state == "failed"


def test_the_slowest_rank_and_its_node_are_named(tmp_path):
    run, _ = begin(tmp_path)
    row = {"global_step": 3, "attempt": 1, "loss": 1.0, "s_per_step": 4.0}
    ranks = {"ranks/slowest": 3, "ranks/slowest_s": 3.9, "ranks/mean_s": 2.0}
    append_jsonl(run.metrics, [{**row, **ranks}])
    beat(run, 3, 9, 999.0)
    lines = report.status_lines(read_status(run, Nodes()))
    assert "slowest    rank 3 on n2: 3.9 s of its own a step, all ranks 2 s" in lines


def test_a_status_is_watched_until_the_run_has_ended(tmp_path):
    run, attempt = begin(tmp_path)
    states = []
    for status in looks(run, Nodes(), 0.01):
        states.append(status.state)
        if len(states) == 2:
            end(attempt, 0, 0)
    assert states == ["running", "running", "ended"]


def test_status_notes_a_full_disk(small_disk):
    disk = small_disk("2m")
    run, _ = begin(disk)
    assert not read_status(run, Nodes()).disk_is_full
    (disk / "filler").write_bytes(bytes(3 * 2**19))
    assert "full: " in "\n".join(report.status_lines(read_status(run, Nodes())))


def test_status_notes_that_the_next_checkpoint_has_no_room(small_disk, save_checkpoint):
    disk = small_disk("10m")
    run, _ = begin(disk)
    path = save_checkpoint(run, 3).path
    manifest = json.loads((path / "checkpoint.json").read_text())
    manifest["files"] = {"large": {"bytes": 3 * 2**20, "sha256": ""}}
    (path / "large").write_bytes(bytes(3 * 2**20))
    (path / "checkpoint.json").write_text(json.dumps(manifest))
    assert read_status(run, Nodes()).lacks_room == ""
    (disk / "filler").write_bytes(bytes(5 * 2**20))
    lines = report.status_lines(read_status(run, Nodes()))
    [line] = [line for line in lines if line.startswith("disk ")]
    assert line.endswith(
        " MB are free, a checkpoint takes 3.1 MB: none is saved until there is room"
    )


def test_damaged_files_of_the_end_are_passed_over(tmp_path):
    run, attempt = begin(tmp_path)
    end(attempt, 0, 1)
    attempt.exit.write_text("")
    attempt.rank_failure(3).write_text("")
    write_json(attempt.rank_failure(2), {"rank": 2, "error": "boom", "traceback": None,
                                        "time_unix_s": 5.0})  # fmt: skip
    attempt.node_log("n1").mkdir()  # cannot be read
    failure = read_status(run, Nodes(n1=(0, 0, 0), n2=(0, 0, 1))).first_failure
    assert (failure.rank, failure.error) == (2, "boom")


def test_two_hundred_runs_are_listed_quickly(tmp_path, save_checkpoint):
    for _ in range(200):
        run, attempt = begin(tmp_path)
        end(attempt, 0, 0)
        beat(run, 9, 9, 500.0)
        save_checkpoint(run, 9)
    before = os.times()
    assert len(list_runs(tmp_path, Nodes().connect)) == 200
    after = os.times()
    assert after.user + after.system - before.user - before.system < 5


def test_a_job_that_began_since_slurm_was_asked_is_running(tmp_path):
    run = create_run(tmp_path, "smoke")
    attempt = run.new_attempt()
    write_record(attempt, JobRecord(job_id=12))
    node = {**node_as_json(Node("n1")), "ranks": 1}
    plan = {"run_id": str(run.path), "ssh": {}, "nodes": [node], "started_unix_s": 0.0}
    answers = ["12|PENDING|N/A||Priority\n", "12|RUNNING|N/A|n1|None\n"]

    def remote(node, request, deadline_s):
        return NodeResult(node, answers[0], exit_code=0)

    slurm = Slurm(remote)
    assert read_status(run, remote, slurm).state == "queued"
    write_json(attempt.plan, plan)
    del answers[0]
    assert read_status(run, remote, slurm).state == "running"


def test_while_slurm_does_not_answer_a_run_is_shown_by_its_files(tmp_path):
    run, attempt = begin(tmp_path)
    beat(run, 7, 20, 500.0)
    write_record(attempt, JobRecord(job_id=12))

    def remote(node, request, deadline_s):
        return NodeResult(node, "", "squeue: error: Munge encode failed", exit_code=1)

    status = read_status(run, remote, Slurm(remote))
    why = "Slurm refuses: squeue: error: Munge encode failed"
    assert (status.state, status.progress.global_step) == ("unknown", 7)
    assert status.as_json()["queue_fault"] == why
    assert f"queue  unknown: {why}" in report.status_lines(status)
    [row] = list_runs(tmp_path, lambda ssh: nullcontext(remote))
    assert (row.state, row.note, row.global_step) == ("unknown", why, 7)


def test_a_job_that_waits_waits_also_where_its_nodes_or_news_of_it_cannot_be_asked(tmp_path):
    run, attempt = begin(tmp_path)
    write_record(attempt, JobRecord(job_id=12))
    answers = [NodeResult(Node("n0"), "12|PENDING|N/A||Resources\n", exit_code=0)]

    def remote(node, request, deadline_s):
        failed = NodeResult(node, "", "slurm_load: Unable to contact controller", exit_code=1)
        return answers.pop() if answers else failed

    status = read_status(run, remote, Slurm(remote))
    assert (status.state, status.queue.state, status.queue_fault) == ("queued", "PENDING", None)
    rows = [line for line in report.status_lines(status) if line.startswith("queue ")]
    assert len(rows) == 1


def test_a_run_whose_nodes_cannot_be_asked_from_here_is_a_row(tmp_path, monkeypatch):
    begin(tmp_path)
    create_run(tmp_path, "stage1")
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = list_runs(tmp_path, lambda ssh: Connections(SshOptions()))
    assert [(row.state, row.note) for row in rows] == [
        ("never started", ""),
        ("unknown", "no `ssh` on this machine"),
    ]


def test_a_folder_that_is_busy_while_time_is_accounted_ends_no_status(
    tmp_path, monkeypatch, capsys
):
    run, attempt = begin(tmp_path)
    end(attempt, 0, 0)

    def busy(run):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(goodput, "account", busy)
    with pytest.raises(typer.Exit) as caught:
        commands.status(run.name, None, as_json=True, runs=str(run.path.parent))
    shown = json.loads(capsys.readouterr().out)
    assert (caught.value.exit_code, shown["state"], shown["goodput"]) == (0, "ended", None)
