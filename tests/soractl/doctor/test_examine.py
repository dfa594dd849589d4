import json
import os
import shutil
import subprocess

import pytest

from soractl.doctor.examine import examine
from soractl.errors import SoractlError
from soractl.health.check import Level


def bad(found):
    """Checks that are BAD, and where."""
    return {
        (finding.check.id, row.node.name)
        for row in found.health.rows
        for finding in row.findings
        if finding.level is Level.BAD
    }


def look(hosts=None, stage=None, golden=None):
    return examine(hosts, stage, golden, runs="runs", deadline_s=60, environ=os.environ)


def test_this_machine_alone_can_train_the_smoke_stage_once_its_clips_are_there(workplace):
    workplace.write("data/smoke/clips.csv", "path,text,num_frames,height,width\nno.mp4,a,1,9,9\n")
    environ = {**os.environ, "WANDB_MODE": "offline"}
    found = examine(None, "smoke", None, runs="runs", deadline_s=60, environ=environ)
    assert {check for check, _ in bad(found)} == {"stage.clips"}
    assert found.shared["same.versions"]["python"]
    assert not (workplace.folder / "runs").exists()


def test_a_machine_without_colossalai_is_a_finding_with_its_remedy(workplace):
    (workplace.bin / "colossalai").unlink()
    found = look()
    assert {check for check, _ in bad(found)} == {"setup.programs"}
    assert found.exit_code == 1


def test_a_read_only_folder_of_runs_is_a_finding_among_the_others(workplace, small_disk):
    disk = small_disk("64k")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    found = examine(None, None, None, runs=str(disk), deadline_s=60, environ=os.environ)
    assert {check for check, _ in bad(found)} == {"folder.writable", "folder.room"}
    assert found.shared["same.versions"]["python"]


def test_nodes_of_a_queue_are_not_known(workplace):
    workplace.write("hostfiles/local.toml", 'kind = "slurm"\nranks_per_node = 8\n')
    with pytest.raises(SoractlError, match="the nodes are Slurm's until a job has them"):
        look()


@pytest.mark.slow
def test_three_nodes_with_a_fault_each_and_a_recorded_state(start_cluster, workplace):
    cluster = start_cluster(3)
    folder = workplace.folder
    config = workplace.write("hostfiles/nodes.toml", "")
    ssh = (f'{k} = "{v}"' for k, v in vars(cluster.options).items() if isinstance(v, str) and v)
    config.write_text(
        "\n".join([f'environment = "{workplace.bin}"', "ranks_per_node = 2", "[ssh]", *ssh])
        + '\n[env]\nGLOO_SOCKET_IFNAME = "eth0"\nNCCL_SOCKET_IFNAME = "eth0"\n'
    )
    hosts = str(workplace.write("hostfiles/nodes.txt", "n[1-3]\n"))
    golden = folder / "golden.json"
    with cluster.network():
        found = look(hosts, golden=golden)
        assert bad(found) == set()
        assert json.loads(golden.read_text())["values"]["gpu.count"] == {"": "8"}
        assert [row.fault for row in found.health.rows] == [None] * 3

        runs = folder / "runs"
        runs.mkdir()
        cluster.do("node", "2", "mount", "-t", "tmpfs", "tmpfs", str(runs))
        cluster.do("node", "3", "ip", "link", "set", "lo", "down")
        cluster.do("node", "3", "sh", "-c", "sed '/ n1$/d' /etc/hosts > /tmp/hosts.n3 && "
                   "mount --bind /tmp/hosts.n3 /etc/hosts")  # fmt: skip
        found = look(hosts, golden=golden)
        assert bad(found) == {("folder.shared", "n2"), ("name.head", "n3")}
        cluster.do("off", "2")
        found = look(hosts)
        assert (str(found.health.rows[1].fault).startswith("unreachable"), found.exit_code) == (
            True, 1,
        )  # fmt: skip
    shutil.rmtree(runs, ignore_errors=True)
