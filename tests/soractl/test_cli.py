import json
import os
import re
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import typer.main

from soractl import cli
from tests.soractl.conftest import free_port
from tests.soractl.data.odd_files import write_video
from tests.waiting import wait_for

REPOSITORY = Path(__file__).parent.parent.parent
HEAVY = ("torch", "pandas", "paramiko", "rich", "pynvml", "ClusterShell")

TRAIN_FIVE_STEPS = """
    for step in range(1, 6):
        train(step, 5)
    save(5)
"""
TRAIN_UNTIL_TOLD = """
    train(1, 5)
    save(1)
    while not (run.path / "end").exists():
        time.sleep(0.05)
"""


def start(workplace, *arguments):
    """The command in a process that goes on."""
    return subprocess.Popen(
        [sys.executable, "-m", "soractl.cli", *arguments],
        cwd=workplace.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_command_alone_is_in_the_program_that_is_made_for_it():
    names = list(typer.main.get_group(cli.app).commands)
    assert {name for names in cli.SECTIONS.values() for name in names} == set(names)
    for name in names:
        made = typer.main.get_group(cli.asked([name, "--help"]))
        assert name in made.commands
        assert len(made.commands) < len(names)


@pytest.mark.parametrize("words", [[], ["--version"], ["--help"], ["gpu"], ["-h", "gpus"]])
def test_other_words_get_the_whole_program(words):
    assert cli.asked(words) is cli.app


def test_help_is_quick_and_loads_nothing_heavy(workplace):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['soractl', '--help']\n"
        "try: runpy.run_module('soractl.cli', run_name='__main__')\n"
        f"except SystemExit: print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    seconds = []
    for _ in range(5):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        after = os.times()
        spent = after.children_user + after.children_system
        seconds.append(spent - before.children_user - before.children_system)
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < 0.5  # of a core; 0.07 s on an idle machine


def test_each_command_is_one_whole_line_of_the_help_at_80_columns(workplace):
    shown = workplace.soractl("--help", environ={"COLUMNS": "80"})
    _usage, *lines = shown.stdout.splitlines()
    assert [line for line in lines if line.endswith("...")] == []


def test_a_launch_follows_its_run_to_the_end(workplace):
    workplace.ranks(TRAIN_FIVE_STEPS)
    done = workplace.soractl("launch", "smoke")
    name = r"\d+ s"
    assert re.sub(name, "T", done.stdout).splitlines() == [
        "001-smoke ended well at step 5 after T",
        "1 complete checkpoint, the newest: runs/001-smoke/checkpoints/epoch0-global_step5",
    ]
    assert re.sub(name, "T", done.stderr).splitlines()[:5] == [
        "run      runs/001-smoke",
        "stage    smoke",
        "start    random weights",
        "nodes    2 ranks on 1 node: this machine",
        "started 001-smoke, attempt 1; logs: runs/001-smoke/attempts/1/",
    ]


def test_the_ranks_get_a_clean_environment(workplace):
    workplace.ranks("import json\nprint(json.dumps(dict(os.environ)))")
    environ = {"WANDB_API_KEY": "secret", "MASTER_ADDR": "elsewhere", "WANDB_MODE": "offline"}
    workplace.soractl("launch", "smoke", environ=environ)
    [log] = (workplace.folder / "runs/001-smoke/attempts/1").glob("*.log")
    environment = json.loads(log.read_text())
    run = workplace.folder / "runs/001-smoke"
    for own in ("HOME", "USER", "LANG", "LC_CTYPE", "PWD", "SHLVL", "_"):
        environment.pop(own, None)
    assert environment == {
        "PATH": f"{workplace.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2)),
        "WANDB_MODE": "offline",
        "SORACTL_RUN_ID": str(run),
    }


def test_a_failed_launch_shows_the_ranks_own_account_and_passes_the_exit_code_on(workplace):
    workplace.ranks("""
        train(3, 5)
        write_json(attempt.rank_failure(1), {"rank": 1, "error": "ValueError: boom",
                   "traceback": "Traceback\\n  line", "time_unix_s": time.time()})
        sys.exit(1)
    """)
    done = workplace.soractl("launch", "smoke", code=1)
    node = os.uname().nodename
    assert re.sub(r"\d+ s", "T", done.stdout).splitlines() == [
        f"001-smoke failed at step 3 after T: rank 1 on {node}: ValueError: boom",
        "  Traceback",
        "    line",
        "logs: runs/001-smoke/attempts/1/",
        "0 complete checkpoints",
    ]
    values = json.loads(workplace.soractl("status", "--json", code=1).stdout)
    assert (values["schema_version"], values["state"], values["first_failure"]["rank"]) == (
        1,
        "failed",
        1,
    )


@pytest.mark.slow  # a look at the nodes comes every eight seconds
def test_processes_that_were_all_killed_are_noticed(workplace):
    workplace.ranks("os.kill(os.getppid(), 9)\nos.kill(os.getpid(), 9)")
    done = workplace.soractl("launch", "smoke", code=1)
    assert "no process of the run is left" in done.stdout


def test_ctrl_c_detaches_and_the_run_goes_on(workplace):
    workplace.ranks(TRAIN_UNTIL_TOLD)
    run = workplace.folder / "runs/001-smoke"
    command = start(workplace, "launch", "smoke")
    wait_for((run / "heartbeat.json").exists)
    assert any(line.startswith("started ") for line in iter(command.stderr.readline, ""))
    time.sleep(0.6)  # then it follows
    command.send_signal(signal.SIGINT)
    _, stderr = command.communicate(timeout=60)
    assert command.returncode == 130
    assert stderr.splitlines()[-1] == (
        "interrupted; 001-smoke goes on; `soractl follow 001-smoke` follows it again"
    )
    assert json.loads(workplace.soractl("status", "--json").stdout)["state"] == "running"
    refused = workplace.soractl("resume", "latest", code=5)
    assert refused.stderr.splitlines()[-2].startswith("error: 001-smoke is still running: ")
    (run / "end").touch()
    wait_for(lambda: list((run / "attempts/1").glob("*.exit")))
    assert json.loads(workplace.soractl("status", "--json").stdout)["state"] == "ended"


def write_many_clips(folder):
    """More than can be measured before a signal comes."""
    folder.mkdir()
    write_video(folder / "0.mp4", frames=120, size=(120, 160))
    for number in range(1, 4000):
        os.link(folder / "0.mp4", folder / f"{number}.mp4")


@pytest.mark.parametrize(
    ("arguments", "last_line"),
    [
        (["exec", "one.txt", "--", "touch begun; sleep 30"], "one.txt: 0 ok, 1 failed in "),
        (["logs", "1", "--follow"], "interrupted"),
        (["kill", "1"], "001-smoke: asking "),
        (["data", "info", "clips", "--out", "t.csv"], "interrupted"),
    ],
)
def test_ctrl_c_ends_every_command_with_130_and_one_line(workplace, arguments, last_line):
    begun = "(Path('begun').touch(), time.sleep(60))"
    workplace.ranks(
        f"print('a line', flush=True)\nsignal.signal(signal.SIGTERM, lambda *_: {begun})\n{begun}"
    )
    workplace.write("one.txt", "localhost\n")
    command = None
    try:
        if arguments[0] == "data":
            write_many_clips(workplace.folder / "clips")
        if arguments[0] in ("logs", "kill"):
            workplace.soractl("launch", "smoke", "--detach")
            wait_for((workplace.folder / "begun").exists)
            (workplace.folder / "begun").unlink()
        command = start(workplace, *arguments)
        if arguments[0] == "logs":
            assert command.stdout.readline() == "a line\n"
        elif arguments[0] == "data":
            wait_for((workplace.folder / ".t.csv.journal").exists)
        else:
            wait_for((workplace.folder / "begun").exists)
        command.send_signal(signal.SIGINT)
        stdout, stderr = command.communicate(timeout=20)
    finally:
        if command:
            command.kill()
    assert (command.returncode, "Traceback" in stderr, "Aborted" in stderr) == (130, False, False)
    # amid its clips `data info` reports how far it is, which is a result; before them it has none
    assert (stderr or stdout).splitlines()[-1].startswith(last_line)


def test_an_error_is_an_object_too_where_json_was_asked_for(workplace):
    for arguments, code, error in [
        (["status", "--json"], 6, f"there is no run in {workplace.folder}/runs/"),
        (["launch", "stage9", "--json"], 2, "no stage named stage9; "),
        (["launch", "--json"], 2, "Missing argument"),
        (["gpus", "nods.txt", "--json"], 2, "no host file nods.txt: "),
    ]:
        done = workplace.soractl(*arguments, code=code)
        values = json.loads(done.stdout)
        assert list(values) == ["schema_version", "error", "hint", "exit_code"]
        assert values["error"].startswith(error)
        assert values["exit_code"] == code
    done = workplace.soractl("exec", "--", "cat", "--json", code=1)
    assert "{" not in done.stdout


def test_what_is_printed_can_be_typed_with_the_folder_of_runs(workplace):
    workplace.ranks(TRAIN_FIVE_STEPS)
    done = workplace.soractl("launch", "smoke", "--runs", "else where", "--detach")
    assert [line.split("  ")[1] for line in done.stderr.splitlines()[-4:]] == [
        f"soractl {command} 001-smoke --runs 'else where'"
        for command in ("follow", "status", "logs", "kill")
    ]
    done = workplace.soractl("status", "--runs", "nowhere", code=6)
    assert done.stderr.splitlines()[-1] == (
        "hint: `soractl launch STAGE --runs nowhere` starts one"
    )


def test_a_run_that_lives_is_not_resumed_and_its_own_port_is_no_reason(workplace):
    port = free_port()
    listen = f"    import socket\n    listening = socket.create_server(('', {port}))"
    workplace.ranks(listen + TRAIN_UNTIL_TOLD)
    workplace.write("hostfiles/one.txt", "localhost slots=2\n")
    workplace.write(
        "hostfiles/one.toml", f'environment = "{workplace.bin}"\nmaster_port = {port}\n'
    )
    workplace.soractl("launch", "smoke", "--hostfile", "one.txt", "--detach")
    run = workplace.folder / "runs/001-smoke"
    wait_for(lambda: list(run.glob("checkpoints/epoch*")))
    refused = workplace.soractl("resume", "latest", code=5)
    assert refused.stderr.splitlines()[-2].startswith("error: 001-smoke is still running: ")
    (run / "end").touch()


def test_a_detached_launch_returns_with_the_runs_name(workplace):
    workplace.ranks(TRAIN_UNTIL_TOLD)
    assert workplace.soractl("launch", "smoke", "--detach").stdout == "001-smoke\n"
    values = json.loads(workplace.soractl("launch", "smoke", "--detach", "--json").stdout)
    assert values == {
        "schema_version": 1,
        "run": "002-smoke",
        "path": str(workplace.folder / "runs/002-smoke"),
        "attempt": 1,
        "world_size": 2,
        "nodes": [os.uname().nodename],
    }


def test_a_stopped_run_is_shown_as_stopped_and_goes_on_with_resume(workplace):
    workplace.ranks("""
        train(2, 5)
        save(2)
        write_json(attempt.stopped, {"signal": "SIGTERM"})
        sys.exit(1)
    """)
    stopped = workplace.soractl("launch", "smoke", code=143)
    assert re.sub(r"\d+ s", "T", stopped.stdout).splitlines()[0] == (
        "001-smoke was stopped by SIGTERM at step 2 after T"
    )
    assert stopped.stdout.splitlines()[-1] == "next: `soractl resume 001-smoke`"
    workplace.ranks(TRAIN_FIVE_STEPS)
    done = workplace.soractl("resume", "001-smoke")
    assert "start    everything from runs/001-smoke/checkpoints/epoch0-global_step2" in done.stderr
    *lines, goodput = workplace.soractl("status").stdout.splitlines()
    assert lines == [
        "run      runs/001-smoke",
        "stage    smoke",
        "state    ended (attempt 2 on 1 node)",
        "at       step 5/5  loss 0.2000  0.1 s/step  20 clips/s",
        "loss     0.5000 at first, 0.2000 now",
        "saved    2 complete checkpoints, "
        "the newest: runs/001-smoke/checkpoints/epoch0-global_step5",
    ]
    assert re.fullmatch(r"goodput  [\d.]+ % of \d+ s in steps that count, 1 restart", goodput)


def test_a_checkpoint_that_cannot_be_read_is_unknown_and_never_none(workplace):
    workplace.ranks("save(1)")
    workplace.soractl("launch", "smoke")
    manifest = workplace.folder / "runs/001-smoke/checkpoints/epoch0-global_step1/checkpoint.json"
    manifest.unlink()
    manifest.symlink_to(manifest)  # open() fails with ELOOP, as with EIO
    reason = "checkpoint.json cannot be read: Too many levels of symbolic links"
    name = manifest.parent.name
    saved = f"saved    0 complete checkpoints; {name} may be one: {reason}"
    assert saved in workplace.soractl("status").stdout.splitlines()
    done = workplace.soractl("resume", "1", code=2)
    assert f"{name} may be complete: {reason}" in done.stderr


def test_the_log_of_a_run_is_shown(workplace):
    workplace.ranks("for i in range(50): print('line', i)")
    workplace.soractl("launch", "smoke")
    assert workplace.soractl("logs", "-n", "2").stdout == "line 48\nline 49\n"
    assert workplace.soractl("logs", "1", "-n", "1", "--follow").stdout == "line 49\n"
    assert workplace.soractl("logs", "-n", "0").stdout == ""
    assert "-5" in workplace.soractl("logs", "-n", "-5", code=2).stderr
    assert "does not run on n9" in workplace.soractl("logs", "--node", "n9", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["launch", "stage9"],
            2,
            "error: no stage named stage9; ",
        ),
        (
            ["launch", "smoke", "--set", "optim.warmpup_steps=10"],
            2,
            "error: --set optim.warmpup_steps=10: no setting optim.warmpup_steps; "
            "did you mean optim.warmup_steps?",
        ),
        (["launch", "smoke", "--set", "epochs=2.5"], 2, "error: --set epochs=2.5: epochs = 2.5; "),
        (["launch", "smoke", "--hostfile", "nods.txt"], 2, "error: no host file nods.txt: "),
        (["launch", "stage2"], 6, "error: missing: a complete checkpoint of stage1 "),
        (["launch", "smoke", "--set", "data.path=no.csv"], 6, "error: missing: the data set "),
        (["launch", "smoke", "--init-from", "no.pth"], 6, "error: missing: "),
        (["resume", "latest"], 6, "error: there is no run in "),
        (["status"], 6, "error: there is no run in "),
        (["launch"], 2, "Usage: "),
    ],
)
def test_a_wrong_request_is_one_clear_error_and_makes_nothing(workplace, arguments, code, message):
    done = workplace.soractl(*arguments, code=code)
    assert any(line.startswith(message) for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr
    assert not (workplace.folder / "runs").exists()


def test_a_run_that_never_saved_cannot_be_resumed(workplace):
    workplace.soractl("launch", "smoke")
    done = workplace.soractl("resume", "latest", code=6)
    assert done.stderr == (
        f"error: {workplace.folder}/runs/001-smoke has no complete checkpoint: "
        f"{workplace.folder}/runs/001-smoke/checkpoints is empty\n"
    )


def test_a_dry_run_shows_the_whole_plan_and_makes_nothing(workplace):
    workplace.write("hostfiles/two.txt", "n1 slots=2\nn2 slots=2\n")
    workplace.write(
        "hostfiles/two.toml", f'environment = "{workplace.bin}"\n[env]\nNCCL_IB_HCA = "=mlx5_1"\n'
    )
    asked = ("launch", "smoke", "--hostfile", "two.txt", "--dry-run")
    shown = workplace.soractl(*asked, "--force").stdout
    train = f"{REPOSITORY}/trainer/train.py {workplace.folder}/runs/001-smoke"
    head = "--nproc_per_node 2 --master_addr n1 --master_port 29500"
    assert shown.splitlines()[:6] == [
        "run      runs/001-smoke",
        "stage    smoke",
        "start    random weights",
        "nodes    4 ranks on 2 nodes: hostfiles/two.txt",
        "cluster  hostfiles/two.toml",
        f"workdir  {workplace.folder}",
    ]
    fence = "rdzv_id=001-1-" + sha256(f"{workplace.folder}/runs/001-smoke".encode()).hexdigest()[:8]
    assert shown.splitlines()[-15:] == [
        "environment of every rank, beside its node's HOME, USER and LANG",
        "  PET_RDZV_CONF=timeout=120",
        "  PYTHONUNBUFFERED=1",
        "  TOKENIZERS_PARALLELISM=false",
        "  NCCL_IB_HCA==mlx5_1",
        f"  PATH={workplace.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"  SORACTL_RUN_ID={workplace.folder}/runs/001-smoke",
        "",
        "n1: 2 ranks, ssh n1",
        f"  colossalai run {head} --extra_launch_args {fence},nnodes=2,node_rank=0 {train}",
        "n2: 2 ranks, ssh n2",
        f"  colossalai run {head} --extra_launch_args {fence},nnodes=2,node_rank=1 {train}",
        "",
        f"estimate: {workplace.folder}/data/smoke/clips.csv has no rows",
        "--force: no node was asked whether it is ready",
    ]
    assert not (workplace.folder / "runs").exists()


def test_a_dry_run_asks_the_nodes_and_makes_nothing(workplace):
    workplace.write("hostfiles/dead.txt", "127.0.0.[2-201]:1 slots=2\n")
    done = workplace.soractl("launch", "smoke", "--hostfile", "dead.txt", "--dry-run", code=5)
    assert done.stdout.splitlines()[-3:] == [
        "not ready:",
        "  127.0.0.[2-201]: unreachable: Connection refused",
        "hint: `soractl doctor` has a remedy for each; --force starts all the same",
    ]
    assert workplace.soractl("launch", "smoke", "--dry-run").stdout.endswith("\nready to start\n")
    assert not (workplace.folder / "runs").exists()


def test_a_dry_run_says_exactly_what_is_missing(workplace):
    plan = json.loads(workplace.soractl("launch", "stage2", "--dry-run", "--json").stdout)
    assert (plan["schema_version"], plan["faults"], plan["missing"]) == (
        1,
        [],
        [
            "a complete checkpoint of stage1 (looked at: no run of stage1 in "
            f"{workplace.folder}/runs/)",
            f"the data set {workplace.folder}/data/OpenVid1M.csv",
        ],
    )


def test_settings_are_shown_and_compared(workplace):
    shown = workplace.soractl("config", "show", "stage4", "--set", "optim.lr=1e-3").stdout
    [line] = [line for line in shown.splitlines() if line.startswith("optim.lr ")]
    assert line.split() == ["optim.lr", "0.001", "--set", "optim.lr=1e-3"]
    difference = workplace.soractl("config", "diff", "stage1", "stage4").stdout
    assert "masks.image_head      0.05" in difference
    assert "(and 8 more masks)" in difference
    values = json.loads(workplace.soractl("config", "diff", "stage1", "stage4", "--json").stdout)
    assert list(values) == ["schema_version", "stages", "settings", "origins"]
    assert values["settings"]["epochs"] == {"stage1": 5, "stage4": 3}
