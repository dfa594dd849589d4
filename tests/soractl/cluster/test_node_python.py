import sys
from pathlib import Path

from soractl.cluster.node_python import python_on
from soractl.cluster.settings import Cluster
from soractl.remote.nodes import Node, this_machine


def test_python_runs_in_the_shared_folder_with_the_environment_of_the_cluster_on_other_nodes():
    cluster = Cluster(environment="/env/bin", workdir="/work")
    argv = python_on(Node("n1"), cluster, "-m", "trainer.encode", environment={"LANG": "C"})
    assert argv == (
        *("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", "/work"),
        *("env", "LANG=C", "/env/bin/python", "-m", "trainer.encode"),
    )


def test_python_is_this_interpreter_in_this_folder_if_the_cluster_names_no_other():
    here = python_on(this_machine(), Cluster(environment="/env/bin"), "-V")
    there = python_on(Node("n1"), Cluster(), "-V")
    assert here[4:] == (str(Path.cwd()), sys.executable, "-V")
    assert there[4:] == (str(Path.cwd()), f"{Path(sys.executable).parent}/python", "-V")
