import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from soractl.estimate import rehearsals
from soractl.launch import rehearse as rehearsing
from soractl.launch.prepare import LaunchOptions, prepare_launch
from soractl.remote.connections import Connections
from soractl.terminal.progress_bar import PlainDisplay
from tests.soractl.data.odd_files import write_video
from tests.waiting import wait_for

REPOSITORY = Path(__file__).parents[3]

MEASURED = {
    "seconds": 2.0,
    "cold_s": 5.0,
    "data_s": 0.1,
    "encode_s": 0.5,
    "peak_bytes": 7,
    "left_bytes": 3,
    "reduced_bytes_per_s": 1e9,
    "gpu": None,
    "checkpoint_s": 1.0,
    "checkpoint_stall_s": 0.1,
    "checkpoint_bytes": 4,
}
ENDS_WELL = f"write_json(attempt.rehearsed, {MEASURED!r})"
# fits once a part has at most 1000 tokens
NEEDS_MEMORY = f"""
    import json
    now = json.loads(attempt.config_json.read_text())["model"]["tokens_at_once"]
    if now > 1000:
        write_json(attempt.rank_failure(0), {{"rank": 0, "node": "here", "error": "no memory",
            "remedy": {{"settings": {{"model.tokens_at_once": now // 2}}}}, "traceback": None,
            "time_unix_s": time.time()}})
        sys.exit(1)
    {ENDS_WELL}
"""
HANGS = "time.sleep(600)"


@pytest.fixture
def table(workplace):
    rows = [f"{number}.mp4,a cat,{20 + 20 * (number % 2)},144,256" for number in range(8)]
    text = "\n".join(["path,text,num_frames,height,width", *rows, "p.png,a cat,1,720,1280"])
    return workplace.write("data/smoke/clips.csv", text + "\n")


def rehearse(deadline_s=60.0, overrides=()):
    options = LaunchOptions(random_weights=True, overrides=overrides)
    prepared = prepare_launch("smoke", options, os.environ)
    shapes = rehearsing.buckets_of(prepared)
    with Connections() as remote:
        return rehearsing.rehearse(prepared, shapes, remote, PlainDisplay(), deadline_s)


def left(workplace):
    """Names below the folder of runs."""
    return sorted(str(path.relative_to("runs")) for path in Path("runs").rglob("*"))


def test_every_bucket_has_a_row_and_only_the_result_is_left(workplace, table):
    workplace.ranks(ENDS_WELL)
    found = rehearse()
    names = ["144p/34/0.56", "144p/17/0.56"]  # the picture alone fills no batch
    assert [(one.name, one.seconds, one.fault) for one in found.buckets] == [
        (name, 2.0, None) for name in names
    ]
    assert (found.world_size, found.checkpoint_bytes) == (2, 4)
    assert rehearsals.read(Path("runs"), "smoke").as_json() == json.loads(
        json.dumps(found.as_json())
    ) | {"nodes": found.nodes, "buckets": tuple(vars(one) for one in found.buckets)}
    assert left(workplace) == [".rehearsals", ".rehearsals/smoke.json"]


def test_a_bucket_without_memory_is_tried_again_with_what_would_make_it_fit(workplace, table):
    workplace.ranks(NEEDS_MEMORY)
    found = rehearse(overrides=("model.tokens_at_once=4000",))
    assert [one.fits_with for one in found.buckets] == [{"model.tokens_at_once": 1000}] * 2
    assert {one.seconds for one in found.buckets} == {2.0}
    shown = workplace.soractl(
        *("launch", "smoke", "--rehearse", "--force", "--set", "model.tokens_at_once=4000"), code=1
    )
    assert "to fit: --set model.tokens_at_once=1000" in shown.stdout.splitlines()


def test_a_rank_that_hangs_ends_its_row_and_nothing_else(workplace, table):
    workplace.ranks(HANGS)
    found = rehearse(deadline_s=1.5)
    assert {one.fault for one in found.buckets} == {"did not end within 0 min"}
    assert left(workplace) == [".rehearsals", ".rehearsals/smoke.json"]


def test_ctrl_c_leaves_nothing(workplace, table):
    workplace.ranks(f"(run.path / 'began').touch()\n{HANGS}")
    command = [sys.executable, "-m", "soractl.cli", "launch", "smoke", "--rehearse", "--force"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: Path("runs/.rehearsals/smoke/began").exists())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted; nothing of the rehearsal is left" in errors
    assert left(workplace) == [".rehearsals"]


def test_nodes_with_a_runs_processes_are_refused(workplace, table):
    environment = {**os.environ, "SORACTL_RUN_ID": str(workplace.folder / "007-other")}
    other = subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True)
    try:
        refused = workplace.soractl("launch", "smoke", "--rehearse", code=5)
    finally:
        other.kill()
        other.wait()
    assert "a rehearsal needs the nodes for itself" in refused.stderr
    assert not Path("runs/.rehearsals/smoke.json").exists()


def test_a_dry_run_names_the_buckets_and_starts_nothing(workplace, table):
    found = workplace.soractl("launch", "smoke", "--rehearse", "--dry-run", "--json").stdout
    assert [one["name"] for one in json.loads(found)["buckets"]] == ["144p/34/0.56", "144p/17/0.56"]
    assert not Path("runs").exists()


class Nodes:
    """Three nodes of the test cluster with one rank each, and the smoke stage's real trainer."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, folder

    def rehearsal(self, *options):
        """`launch smoke --rehearse` on the head node, started."""
        words = ("launch", "smoke", "--hostfile", "three.txt", "--rehearse", *options)
        return subprocess.Popen(
            [
                *(REPOSITORY / "tests" / "cluster" / "cluster.sh", "head", "env"),
                *("-u", "SORACTL_HOSTFILE", sys.executable, "-m", "soractl.cli", *words),
            ],
            env={
                **os.environ,
                "SORACTL_CLUSTER": str(self.cluster.folder),
                "PYTHONPATH": str(REPOSITORY),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self, command):
        """Those of all nodes whose command matches and that belong to this folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                mine = str(self.folder).encode() in (process / "environ").read_bytes()
                if mine and re.match(command, (process / "cmdline").read_bytes()):
                    found.append(int(process.name))
            except OSError:
                continue  # it has ended
        return found


@pytest.fixture
def nodes(workplace, start_cluster):
    """A table of eight real clips, which fill one bucket."""
    film = workplace.folder / "data" / "smoke" / "0.mp4"
    write_video(film, frames=24, size=(144, 256))
    for row in range(1, 8):
        os.link(film, film.with_name(f"{row}.mp4"))
    rows = [f"{film.with_name(f'{row}.mp4')},film {row},24,144,256" for row in range(8)]
    text = "\n".join(["path,text,num_frames,height,width", *rows])
    workplace.write("data/smoke/clips.csv", text + "\n")
    workplace.write("hostfiles/three.txt", "n[1-3] slots=1\n")
    workplace.write(
        "hostfiles/three.toml",
        f'environment = "{Path(sys.executable).parent}"\n[env]\nOMP_NUM_THREADS = 1\n'
        f'GLOO_SOCKET_IFNAME = "eth0"\nPYTHONPATH = "{REPOSITORY}"\n',
    )
    return Nodes(start_cluster(3), workplace.folder)


@pytest.mark.ssh
@pytest.mark.slow  # three ranks train
def test_three_nodes_rehearse_and_only_the_result_is_left(workplace, nodes):
    rehearsal = nodes.rehearsal("--json")
    out, errors = rehearsal.communicate(timeout=600)
    assert rehearsal.returncode == 0, out + errors
    found = json.loads(out)
    assert (found["nodes"], found["world_size"], found["gpu"]) == (["n1", "n2", "n3"], 3, None)
    [row] = found["buckets"]
    assert (row["name"], row["batch_size"], row["fault"]) == ("144p/17/0.56", 2, None)
    assert 0 < row["encode_s"] < row["seconds"] < row["cold_s"]
    assert min(found[name] for name in ("reduced_bytes_per_s", "checkpoint_s")) > 0
    assert found["checkpoint_bytes"] > 10**6
    assert nodes.processes(b".*train.py") == []
    assert left(workplace) == [".rehearsals", ".rehearsals/smoke.json"]


@pytest.mark.ssh
@pytest.mark.slow  # three ranks start
def test_ctrl_c_ends_the_ranks_of_three_nodes_and_leaves_nothing(workplace, nodes):
    rehearsal = nodes.rehearsal()
    wait_for(lambda: len(nodes.processes(b".*trainer/train.py")) >= 3, 300)
    [command] = nodes.processes(sys.executable.encode() + b"\0-m\0soractl.cli\0launch")
    os.kill(command, signal.SIGINT)
    _, errors = rehearsal.communicate(timeout=120)
    assert rehearsal.returncode == 130, errors
    assert "interrupted; nothing of the rehearsal is left" in errors
    assert nodes.processes(b".*train.py") == []
    assert left(workplace) == [".rehearsals"]


@pytest.mark.ssh
def test_a_node_with_a_runs_process_is_named_and_nothing_is_started(nodes):
    busy = f"SORACTL_RUN_ID={nodes.folder}/runs/007-other sleep 600 > /dev/null 2>&1 &"
    nodes.cluster.do("node", "2", "sh", "-c", busy)
    rehearsal = nodes.rehearsal()
    _, errors = rehearsal.communicate(timeout=120)
    assert rehearsal.returncode == 5, errors
    assert "in use by 007-other: 1 process on n2" in errors
    assert not Path("runs").exists()
