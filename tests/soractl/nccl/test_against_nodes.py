from dataclasses import replace

import pytest

from soractl.nccl.against_nodes import check_nodes
from soractl.nccl.detect import detect
from soractl.nccl.lint import Finding
from tests.soractl.nccl.trees import gpud_h100, ibstat_h100, tutorial


@pytest.fixture
def node(tmp_path):
    return tutorial(tmp_path / "node").hardware()


def findings(env, hardware):
    return [
        (one.severity, one.name, one.message) for one in check_nodes({"n1": env}, {"n1": hardware})
    ]


ERROR, WARNING = "error", "warning"
HCA, IFNAME = "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME"
RIGHT = "=" + ",".join(f"mlx5_{number}" for number in range(1, 9))
PLANTED = {
    "a card that is not there": ({HCA: f"{RIGHT},mlx5_12"}, ERROR, HCA, "mlx5_12 is not there"),
    "two cards that are not there": (
        {HCA: "=mlx5_1,mlx5_12,mlx5_13"},
        ERROR,
        HCA,
        "mlx5_12, mlx5_13 are not there; there are mlx5_0, ",
    ),
    "a prefix of nothing": ({HCA: "ibp"}, ERROR, HCA, "ibp is not there"),
    "every card left out": ({HCA: "^mlx5"}, ERROR, HCA, "leaves out every card"),
    "the storage card too": ({HCA: "mlx5"}, WARNING, HCA, "mlx5_0 has 200 Gb/s"),
    "an Ethernet card too": ({HCA: f"{RIGHT},mlx5_9"}, WARNING, HCA, "mlx5_9 is Ethernet"),
    "cards forgotten": ({HCA: "=mlx5_1,mlx5_2"}, "note", HCA, "mlx5_3"),
    "an interface that is not there": ({IFNAME: "eth0"}, ERROR, IFNAME, "there is eno1"),
    "an interface that is down": ({IFNAME: "eno2"}, ERROR, IFNAME, "eno2 is down"),
    "gloo's interface is not there": (
        {"GLOO_SOCKET_IFNAME": "eth0"},
        ERROR,
        "GLOO_SOCKET_IFNAME",
        "eth0 is not there",
    ),
    "too many threads": ({"OMP_NUM_THREADS": "32"}, WARNING, "OMP_NUM_THREADS", "on 128 cores"),
    "no way into GPU memory": (
        {HCA: RIGHT, "NCCL_DMABUF_ENABLE": "0"},
        WARNING,
        "NCCL_DMABUF_ENABLE",
        "nvidia_peermem",
    ),
    "cards too far for the level": (
        {HCA: "=mlx5_1", "NCCL_NET_GDR_LEVEL": "PIX"},
        WARNING,
        "NCCL_NET_GDR_LEVEL",
        "is SYS, not PIX",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_does_not_fit_the_hardware_is_found(node, name):
    env, severity, variable, words = PLANTED[name]
    found = [one for one in findings(env, node) if one[:2] == (severity, variable)]
    assert any(words in message for _, _, message in found), findings(env, node)


def test_a_card_whose_port_is_down(tmp_path):
    tree = tutorial(tmp_path)
    tree.put("sys/class/infiniband/mlx5_4/ports/1/state", "1: DOWN")
    assert findings({HCA: RIGHT}, tree.hardware()) == [
        (ERROR, HCA, "mlx5_4 port 1 is DOWN"),
    ]


def test_a_prefix_that_takes_more_than_it_says(tmp_path):
    hardware = ibstat_h100(tmp_path).hardware()
    assert (
        WARNING,
        HCA,
        "mlx5_1 takes mlx5_10, mlx5_11 too; write = before the list",
    ) in findings({HCA: "mlx5_0,mlx5_1"}, hardware)


def test_an_interface_that_does_not_lead_to_the_head(node):
    other = replace(node, to_head="eno7")
    assert findings({IFNAME: "eno1"}, other) == [
        (ERROR, IFNAME, "the way to the head node is eno7")
    ]


def test_where_addresses_are_not_known_none_is_missed(node):
    unknown = replace(
        node,
        interfaces=tuple(replace(one, addresses=()) for one in node.interfaces),
        knows_addresses=False,
        to_head=None,
    )
    assert findings({IFNAME: "eno1"}, unknown) == []


def test_a_file_of_nccl_that_says_otherwise(node):
    own = replace(node, files=(("/etc/nccl.conf", "NCCL_DEBUG", "INFO"),))
    assert findings({"NCCL_DEBUG": "WARN"}, own) == [
        ("note", "NCCL_DEBUG", "/etc/nccl.conf has INFO; the environment wins")
    ]


@pytest.mark.parametrize("make", [tutorial, gpud_h100, ibstat_h100])
def test_what_is_detected_has_no_findings(tmp_path, make):
    hardware = make(tmp_path).hardware()
    env = {name: str(value) for name, value in detect({"n1": hardware}).common.items()}
    assert findings(env, hardware) == []


def test_the_first_prefix_of_several_need_not_be_there(node):
    assert findings({IFNAME: "eth0,en,eth,em,bond"}, node) == []


def test_findings_of_several_nodes_are_one_and_name_them(node):
    nodes = dict.fromkeys(("n1", "n2", "n3"), node)
    envs = {"n1": {HCA: RIGHT}, "n2": {HCA: f"{RIGHT},mlx5_12"}, "n3": {HCA: f"{RIGHT},mlx5_12"}}
    [finding] = check_nodes(envs, nodes)
    assert (finding.name, finding.nodes) == (HCA, ("n2", "n3"))
    [of_all] = check_nodes({name: {IFNAME: "eth0"} for name in nodes}, nodes)
    assert of_all.nodes == ()


def test_what_must_be_the_same_on_all_nodes(node):
    other = replace(node, nccl=(2, 21), files=(("/etc/nccl.conf", "NCCL_ALGO", "Ring"),))
    nodes = {"n1": replace(node, nccl=(2, 28)), "n2": other}
    envs = {"n1": {"NCCL_BUFFSIZE": "4194304", HCA: RIGHT}, "n2": {HCA: "=mlx5_1"}}
    found = check_nodes(envs, nodes)
    assert [one for one in found if not one.nodes] == [
        Finding(ERROR, "NCCL_BUFFSIZE", "nodes differ: 4194304 on n1, nothing on n2"),
        Finding(ERROR, "nccl", "nodes differ: 2.28 on n1, 2.21 on n2"),
        Finding(WARNING, "nccl.conf", "nodes differ: nothing on n1, NCCL_ALGO=Ring on n2"),
    ]
