from pathlib import Path

import pytest

from soractl.cluster.settings import Cluster
from soractl.errors import Fault, FaultKind
from soractl.nccl.ask import NodesEnvironment, ask, propose
from soractl.remote.nodes import Node, NodeSource


@pytest.fixture
def hosts(sshd, tmp_path):
    """A host file of one node by ssh, and what its cluster's file says beside [ssh]."""
    file = tmp_path / "hosts.txt"
    file.write_text(f"{sshd.host}:{sshd.port} slots=2\n")
    options = sshd.options

    def write(text):
        file.with_suffix(".toml").write_text(
            f'{text}\n[ssh]\nconfig_file = "{options.config_file}"\n'
            f'identity_file = "{options.identity_file}"\n'
            f'known_hosts_file = "{options.known_hosts_file}"\n'
        )
        return str(file)

    return write


@pytest.mark.ssh
def test_a_node_over_ssh_and_the_clusters_file(hosts, sshd):
    file = hosts('[env]\nNCCL_DEBUG = "WARNING"\n[env."127.*"]\nOMP_NUM_THREADS = 4\n')
    found = ask(file, {}, deadline_s=20)
    assert found.envs == {sshd.host: {"NCCL_DEBUG": "WARNING", "OMP_NUM_THREADS": "4"}}
    assert found.faults == {}
    assert found.hardware[sshd.host].cores > 0
    assert [str(finding) for finding in found.findings] == [
        "NCCL_DEBUG: WARNING is no value of it, and is ignored; did you mean WARN?"
    ]
    assert found.exit_code == 1
    assert propose(found).common["NCCL_DEBUG"] == "WARN"


@pytest.mark.ssh
def test_a_table_that_fits_no_node_is_found(hosts):
    found = ask(hosts('[env."node-01*"]\nNCCL_IB_HCA = "=mlx5_1"\n'), {}, deadline_s=20)
    assert [str(finding) for finding in found.findings] == [
        'env."node-01*": no node has such a name'
    ]
    assert found.exit_code == 0


@pytest.mark.ssh
def test_a_node_that_does_not_answer_is_a_fault_and_the_values_are_checked_all_the_same(
    hosts, sshd
):
    file = hosts('[env]\nNCCL_DEBUG = "WARN"\n')
    Path(file).write_text(f"{sshd.host}:{sshd.port}\n127.0.77.9:1\n")
    found = ask(file, {}, deadline_s=20)
    assert list(found.hardware) == [sshd.host]
    assert found.faults["127.0.77.9"].kind is FaultKind.UNREACHABLE
    assert (found.findings, found.exit_code) == ([], 4)


def test_a_value_of_one_node_alone_names_the_node():
    nodes = tuple(Node(f"n{number}") for number in range(1, 4))
    cluster = Cluster(env={"NCCL_DEBUG": "INFO", "n2": {"NCCL_IB_TIMEOUT": 99}})
    fault = Fault(FaultKind.UNREACHABLE, "no route")
    faults = {node.name: fault for node in nodes}
    found = NodesEnvironment(NodeSource(nodes, "three.txt"), None, cluster, {}, {}, faults)
    assert [(one.severity, one.name, one.nodes) for one in found.findings] == [
        ("error", "NCCL_IB_TIMEOUT", ("n2",)),
        ("warning", "NCCL_DEBUG", ()),
    ]
