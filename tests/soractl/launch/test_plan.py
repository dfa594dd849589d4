import contextlib
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from soractl.cluster.settings import Cluster, Machine
from soractl.errors import SoractlError
from soractl.launch import plan as launch_plan
from soractl.launch.plan import NodePlan, node_script
from soractl.launch.start_point import StartPoint
from soractl.remote.nodes import Node
from trainer.run_dir import AttemptDir

HERE = Node("here", local=True)
MACHINE = Machine(
    workdir=Path("/work dir"), environment=Path("/venv/bin"), gpus=0, cores=6, free_port=40000
)
RUN = Path("/work dir/runs/001-smoke")


FENCE = "rdzv_id=001-1-" + hashlib.sha256(str(RUN).encode()).hexdigest()[:8]


def plan(*nodes, cluster=None, machine=MACHINE, run=RUN, environ=()):
    return launch_plan.plan(
        run,
        StartPoint("fresh"),
        nodes=nodes,
        cluster=cluster or Cluster(),
        machine=machine,
        environ=dict(environ),
    )


def test_one_machine_without_gpus_runs_two_ranks_on_a_free_port():
    environment = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "3",
        "PATH": "/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SORACTL_RUN_ID": "/work dir/runs/001-smoke",
    }
    command = (
        *("colossalai", "run", "--nproc_per_node", "2"),
        *("--master_addr", "127.0.0.1", "--master_port", "40000"),
        *("--extra_launch_args", f"{FENCE},nnodes=1,node_rank=0"),
        *(str(launch_plan.TRAIN_SCRIPT), "/work\\ dir/runs/001-smoke"),
    )
    made = plan(HERE)
    assert made.nodes == (NodePlan(HERE, 0, 2, environment, command),)
    assert made.world_size == 2


def test_many_nodes_meet_at_the_first_one_and_spare_ones_stay_out():
    nodes = [Node("n1", slots=8), Node("n2"), Node("n3", spare=True), Node("n4", slots=2)]
    made = plan(*nodes, cluster=Cluster(ranks_per_node=4, workdir="/shared"))
    assert [(n.node.name, n.node_rank, n.ranks) for n in made.nodes] == [
        ("n1", 0, 8),
        ("n2", 1, 4),
        ("n4", 2, 2),
    ]
    assert made.world_size == 14
    assert [n.command[4:10] for n in made.nodes] == [
        (
            "--master_addr",
            "n1",
            "--master_port",
            "29500",
            "--extra_launch_args",
            f"{FENCE},nnodes=3,{rank}",
        )
        for rank in ("node_rank=0", "node_rank=1", "node_rank=2")
    ]
    assert [n.environment.get("OMP_NUM_THREADS") for n in made.nodes] == [None] * 3


def test_gpus_of_this_machine_are_its_ranks():
    machine = Machine(Path("/w"), Path("/v"), gpus=8, cores=128, free_port=1)
    [node] = plan(HERE, machine=machine).nodes
    assert (node.ranks, node.environment["OMP_NUM_THREADS"]) == (8, "16")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node("n1"), Node("n2")], "how many ranks does n1 run?"),
        ([Node("n1", spare=True)], "all nodes are spare: none is left to start on"),
        (
            [Node("n", slots=1, port=1), Node("n", slots=1, port=2)],
            "n stands more than once among the nodes",
        ),
        (
            [Node("localhost", slots=1, local=True), Node("n2", slots=1)],
            "the other nodes cannot reach the head node as localhost",
        ),
    ],
)
def test_nodes_that_cannot_work_together_are_refused(nodes, message):
    with pytest.raises(SoractlError) as caught:
        plan(*nodes)
    assert caught.value.message == message


def test_a_path_that_colossalai_would_mangle_is_refused():
    with pytest.raises(SoractlError, match=r"cannot handle '\$' in a path"):
        plan(HERE, run=Path("/runs/$HOME/001-x"))


def put_in_place_of_colossalai(bin_folder, code):
    bin_folder.mkdir(parents=True)
    (bin_folder / "colossalai").write_text(f"#!/bin/bash\n{code}\nexit 3\n")
    (bin_folder / "colossalai").chmod(0o755)


def test_a_log_goes_on_after_a_full_disk_and_the_exit_code_is_noted_on_one(small_disk, tmp_path):
    disk = small_disk("200k")
    full = f"dd if=/dev/zero of={disk}/filler bs=4096 2>/dev/null"
    lost = 'for i in {1..3000}; do echo "lost $i"; done'
    put_in_place_of_colossalai(
        tmp_path / "bin",
        f"{full}; {lost}; sleep 0.5; rm {disk}/filler; echo kept; sleep 0.5; {full}; sleep 0.2",
    )
    run = disk / "001-x"
    attempt = AttemptDir(run / "attempts/1")
    attempt.path.mkdir(parents=True)
    machine = Machine(tmp_path, tmp_path / "bin", gpus=0, cores=1, free_port=5)
    made = plan(HERE, machine=machine, run=run)
    attempt.node_script("here").write_text(node_script(made, made.nodes[0], attempt))
    subprocess.run(["bash", attempt.node_script("here")], check=True)
    lines = attempt.node_log("here").read_text().splitlines()
    assert (lines[-1], len(lines) < 3000) == ("kept", True)
    assert int(attempt.node_exit("here").read_text()) == 3


def test_a_nodes_script_survives_spaces_and_writes_how_it_ended(tmp_path):
    folder = tmp_path / "a folder"
    bin_folder = folder / "bin"
    put_in_place_of_colossalai(
        bin_folder, 'echo "$NCCL_IB_HCA|$X|$SECRET|$HOME|$PWD"\nprintf "<%s>" "$@"'
    )
    run = folder / "runs/001-x"
    attempt = AttemptDir(run / "attempts/1")
    attempt.path.mkdir(parents=True)
    machine = Machine(folder, bin_folder, gpus=0, cores=1, free_port=5)
    made = plan(HERE, machine=machine, run=run, cluster=Cluster(env={"NCCL_IB_HCA": "=a,b"}))
    attempt.node_script("here").write_text(node_script(made, made.nodes[0], attempt))
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/home/me", "SECRET": "s", "X": "y"}
    subprocess.run(["bash", attempt.node_script("here")], env=environ, check=True)
    shown = str(run).replace(" ", "\\ ")
    fence = made.nodes[0].command[-3].partition(",")[0]
    assert attempt.node_log("here").read_text() == (
        f"=a,b|||/home/me|{folder}\n"
        "<run><--nproc_per_node><2><--master_addr><127.0.0.1><--master_port><5>"
        f"<--extra_launch_args><{fence},nnodes=1,node_rank=0><{launch_plan.TRAIN_SCRIPT}><{shown}>"
    )
    assert int(attempt.node_exit("here").read_text()) == 3


def test_torchrun_takes_the_last_value_of_a_repeated_option():
    from torch.distributed import run  # two seconds

    arguments = ["--nnodes=1", "--node_rank=0", "--nnodes=3", "--node_rank=2", "train.py", "run"]
    parsed = run.get_args_parser().parse_args(arguments)
    assert (parsed.nnodes, parsed.node_rank) == ("3", 2)


def test_a_plan_moves_to_the_run_that_was_made_and_nothing_else_of_it_changes():
    nodes = (Node("n1", slots=2), Node("n2", slots=2))
    made = plan(*nodes).at(Path("/runs/9-x y"), 3)
    fresh = plan(*nodes, run=Path("/runs/9-x y"))
    assert made == fresh.at(fresh.run, 3)
    ids = [node.command[-3].split(",")[0] for node in (*made.nodes, *fresh.nodes)]
    assert ids == [ids[0]] * 2 + [ids[0].replace("9-3", "9-1")] * 2
    assert [node.environment["PET_RDZV_CONF"] for node in made.nodes] == ["timeout=120"] * 2
    assert made.nodes[1].command[-1] == "/runs/9-x\\ y"


def test_the_barrier_between_runs_on_one_port_cannot_be_switched_off():
    cluster = Cluster(env={"TORCH_ELASTIC_WORKER_IDENTICAL": "1"})
    with pytest.raises(SoractlError, match="would let nodes of two runs train together"):
        plan(HERE, cluster=cluster)


@pytest.mark.slow  # the agents wait for their own kind
@pytest.mark.parametrize(("second", "started"), [("7-1-b", []), ("7-1-a", ["0", "1"])])
def test_agents_of_two_runs_on_one_port_start_no_ranks(tmp_path, second, started):
    ranks = tmp_path / "ranks.py"
    ranks.write_text(f"import os\nopen(f'{tmp_path}/ran{{os.environ[\"RANK\"]}}', 'w').close()\n")
    with contextlib.closing(socket.create_server(("", 0))) as server:
        port = server.getsockname()[1]
    agents = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1"),
                *("--nnodes=2", f"--node_rank={rank}", f"--rdzv_id={fence}"),
                *("--master_addr=127.0.0.1", f"--master_port={port}", str(ranks)),
            ],
            env={**os.environ, "PET_RDZV_CONF": "timeout=15" if started else "timeout=8"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank, fence in enumerate(["7-1-a", second])
    ]
    codes = [agent.wait(90) for agent in agents]
    assert [path.name[3:] for path in sorted(tmp_path.glob("ran?"))] == started
    assert [code == 0 for code in codes] == [bool(started)] * 2
