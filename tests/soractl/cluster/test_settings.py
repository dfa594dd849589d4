from pathlib import Path

import pytest

from soractl.cluster import settings as cluster
from soractl.cluster.settings import Cluster
from soractl.remote.ssh_command import SshOptions
from trainer.settings import ConfigError

REPOSITORY = Path(__file__).parent.parent.parent.parent


def test_the_cluster_is_the_toml_beside_the_hostfile(tmp_path):
    (tmp_path / "a.toml").write_text(
        'ranks_per_node = 4\n[ssh]\nuser = "me"\n[env]\nX = 1\nY = "=2"\n'
    )
    loaded = cluster.load(tmp_path / "a.txt")
    expected = Cluster(ranks_per_node=4, ssh=SshOptions(user="me"), env={"X": 1, "Y": "=2"})
    assert loaded == (expected, tmp_path / "a.toml")


def test_tables_in_env_are_for_the_nodes_whose_names_fit(tmp_path):
    (tmp_path / "a.toml").write_text(
        '[env]\nA = 1\nB = "x"\n[env."node-01*"]\nA = 2\n[env."*-012"]\nA = 3\nC = "y"\n'
    )
    loaded, _ = cluster.load(tmp_path / "a.txt")
    assert loaded.env_of("node-001") == {"A": 1, "B": "x"}
    assert loaded.env_of("node-010") == {"A": 2, "B": "x"}
    assert loaded.env_of("node-012") == {"A": 3, "B": "x", "C": "y"}
    assert loaded.env_names == ["A", "B", "C"]


def test_the_policy_for_clocks_has_limits_in_ms(tmp_path):
    (tmp_path / "a.toml").write_text("[clock]\nmax_offset_ms = 5\n")
    loaded, _ = cluster.load(tmp_path / "a.txt")
    assert loaded.clock == cluster.ClockPolicy(max_offset_ms=5.0)


def test_a_hostfile_without_a_toml_has_a_cluster_without_settings(tmp_path):
    assert cluster.load(tmp_path / "a.txt") == (Cluster(), None)


def test_without_a_hostfile_the_local_file_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cluster.load(None) == (Cluster(), None)
    monkeypatch.chdir(REPOSITORY)
    assert cluster.load(None)[1] == cluster.LOCAL


def test_faults_of_a_cluster_file_are_reported_all_at_once(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('rank_per_node = 8\nworkdir = 3\n[env]\nA = 1.5\n[ssh]\nusr = "x"\n')
    with pytest.raises(ConfigError) as caught:
        cluster.load(tmp_path / "a.txt")
    assert caught.value.faults == (
        f"{path}: no setting rank_per_node; did you mean ranks_per_node?",
        f"{path}: workdir = 3; expected str",
        f"{path}: env.A = 1.5; expected str or int or a table",
        f"{path}: no setting ssh.usr; did you mean ssh.user?",
    )


def test_every_cluster_file_that_we_ship_loads():
    files = sorted((REPOSITORY / "hostfiles").glob("*.toml"))
    assert [cluster.load(file)[1] for file in files] == files


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("2,5", 2),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("GPU-5a1e0c70-1b2c, 3", 2),
        ("MIG-GPU-5a1e0c70-1b2c/1/0", 1),
        ("0,-1,1", 1),
    ],
)
def test_only_the_gpus_that_cuda_may_see_are_counted(visible, gpus):
    assert cluster.this_machine({"CUDA_VISIBLE_DEVICES": visible}).gpus == gpus
