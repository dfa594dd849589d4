from pathlib import Path

import pytest

from soractl.cluster.ranks import ranks_of, working_directory
from soractl.cluster.settings import Cluster, Machine
from soractl.errors import SoractlError
from soractl.remote.nodes import Node

MACHINE = Machine(Path("/here"), Path("/env/bin"), gpus=4, cores=8, free_port=15000)
HERE = Node("n0", local=True)


@pytest.mark.parametrize(
    ("node", "cluster", "machine", "ranks"),
    [
        (Node("n1", slots=6), Cluster(ranks_per_node=8), MACHINE, 6),
        (Node("n1"), Cluster(ranks_per_node=8), MACHINE, 8),
        (HERE, Cluster(), MACHINE, 4),
        (HERE, Cluster(), Machine(Path("/"), Path("/"), gpus=0, cores=8, free_port=1), 2),
    ],
)
def test_slots_come_before_the_clusters_file_and_that_before_what_this_machine_has(
    node, cluster, machine, ranks
):
    assert ranks_of(node, cluster, machine) == ranks


def test_another_node_of_which_nothing_is_written_is_asked_for():
    with pytest.raises(SoractlError, match="how many ranks does n1 run") as error:
        ranks_of(Node("n1"), Cluster(), MACHINE)
    assert "`n1 slots=8`" in error.value.hint


def test_ranks_run_in_the_clusters_folder_or_in_this_one():
    assert working_directory(Cluster(workdir="/shared"), MACHINE) == Path("/shared")
    assert working_directory(Cluster(), MACHINE) == Path("/here")
