from pathlib import Path

import pytest

from soractl.cluster import rank_environment
from soractl.cluster.settings import load
from soractl.errors import SoractlError

REPOSITORY = Path(__file__).parent.parent.parent.parent


def build(env, operator=()):
    return rank_environment.build(
        env, run=Path("/shared/runs/001-x"), bin_folder=Path("/venv/bin"), operator=dict(operator)
    )


def test_the_example_cluster_gets_exactly_its_environment_and_keeps_the_leading_equals_sign():
    cluster, _ = load(REPOSITORY / "hostfiles/example-24xh100.txt")
    assert build(cluster.env) == {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "NCCL_P2P_LEVEL": "NVL",
        "NCCL_NET_GDR_LEVEL": "PIX",
        "NCCL_IB_HCA": "=mlx5_1,mlx5_2,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_7,mlx5_8",
        "NCCL_IB_PCI_RELAXED_ORDERING": "1",
        "NCCL_SOCKET_IFNAME": "eno1",
        "NCCL_DEBUG": "WARN",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "TORCH_NCCL_ENABLE_MONITORING": "1",
        "OMP_NUM_THREADS": "16",
        "PATH": f"/venv/bin:{rank_environment.SYSTEM_PATH}",
        "SORACTL_RUN_ID": "/shared/runs/001-x",
    }


def test_a_path_of_the_cluster_comes_after_the_environment_of_the_trainer():
    assert build({"PATH": "/usr/local/cuda/bin:/bin"})["PATH"] == (
        "/venv/bin:/usr/local/cuda/bin:/bin"
    )


@pytest.mark.parametrize("value", ['a"b', "$HOME", "`id`", "a\\b", "a\nb", "", "caf\u00e9"])
def test_a_value_that_would_not_arrive_as_it_is_names_its_key(value):
    with pytest.raises(SoractlError, match="NCCL_DEBUG cannot travel to the nodes"):
        build({"NCCL_DEBUG": value})


@pytest.mark.parametrize("value", ["a b", "=x", "a;b", "it's", "a&b!", "{'a': 1}", "100%"])
def test_a_plain_value_travels(value):
    assert build({"X": value})["X"] == value


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET", "DB_PASSWORD"])
def test_a_secret_does_not_travel(name):
    with pytest.raises(SoractlError, match=f"{name} looks like a secret"):
        build({name: "x"})


def test_a_name_that_no_shell_can_export_is_refused():
    with pytest.raises(SoractlError, match=r"'FOO\.BAR' cannot be the name"):
        build({"FOO.BAR": "1"})


def test_the_operators_environment_gives_only_what_is_named():
    everywhere = {"WANDB_MODE": "offline"}
    here = {"CUDA_VISIBLE_DEVICES": "1", "HF_HOME": "/data/hf", "HF_HUB_CACHE": "/data/hub"}
    environ = {**everywhere, **here, "WANDB_API_KEY": "k", "X": "y"}
    assert rank_environment.carried(environ, alone=False) == everywhere
    assert rank_environment.carried(environ, alone=True) == {**everywhere, **here}
