from pathlib import Path

from soractl.cluster.settings import load
from soractl.nccl.meanings import MEANINGS
from soractl.nccl.names import KNOWN

EXAMPLE = Path(__file__).parents[3] / "hostfiles" / "example-24xh100.txt"
OF_OTHERS = ("GLOO_", "OMP_", "CUDA_", "TORCH_", "TOKENIZERS_", "PYTHON", "WANDB_")


def test_only_what_somebody_reads_has_a_meaning():
    own = [name for name in MEANINGS if not name.startswith(OF_OTHERS)]
    assert set(own) <= set(KNOWN)


def test_every_variable_of_the_example_cluster_has_a_meaning():
    assert set(load(EXAMPLE)[0].env) <= MEANINGS.keys()
