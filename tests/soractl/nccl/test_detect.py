from dataclasses import replace

from soractl.nccl.detect import detect, toml
from tests.soractl.nccl.trees import Tree, gpud_h100, ibstat_h100, tutorial


def test_the_tutorials_own_environment_is_found_on_its_kind_of_nodes(tmp_path):
    nodes = {
        name: tutorial(tmp_path / name, head=name == "n1").hardware() for name in ("n1", "n2", "n3")
    }
    proposal = detect(nodes)
    assert toml(proposal) == [
        "[env]",
        'NCCL_IB_HCA = "=mlx5_1,mlx5_2,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_7,mlx5_8"',
        'NCCL_NET_GDR_LEVEL = "PIX"',
        'NCCL_SOCKET_IFNAME = "eno1"',
        'GLOO_SOCKET_IFNAME = "eno1"',
        'NCCL_DEBUG = "WARN"',
        "OMP_NUM_THREADS = 16",
    ]
    assert proposal.reasons == (
        "n[1-3]: left out: mlx5_0 (InfiniBand, 200 Gb/s), mlx5_9 (Ethernet, 100 Gb/s)",
    )


def test_a_public_h100_node_whose_ethernet_is_a_bond(tmp_path):
    proposal = detect({"n1": gpud_h100(tmp_path).hardware()})
    assert proposal.common["NCCL_IB_HCA"] == "=" + ",".join(
        f"mlx5_{number}" for number in (0, 1, 4, 5, 6, 7, 8, 9)
    )
    assert proposal.common["NCCL_SOCKET_IFNAME"] == "bond0"
    assert "NCCL_NET_GDR_LEVEL" not in proposal.common  # that tree says nothing of PCI


def test_a_public_h100_node_with_ethernet_cards_that_are_down(tmp_path):
    proposal = detect({"n1": ibstat_h100(tmp_path).hardware()})
    assert proposal.common["NCCL_IB_HCA"] == "=" + ",".join(
        f"mlx5_{number}" for number in (0, 3, 4, 5, 6, 9, 10, 11)
    )
    assert proposal.common["NCCL_SOCKET_IFNAME"] == "eth0"
    assert proposal.reasons == (
        "n1: left out: mlx5_1 (Ethernet, 100 Gb/s), mlx5_2 (DOWN), mlx5_7 (DOWN), mlx5_8 (DOWN)",
    )


def test_a_node_whose_interface_has_another_name_gets_a_table_of_its_own(tmp_path):
    nodes = {name: tutorial(tmp_path / name).hardware() for name in ("n1", "n2", "n3")}
    nodes["n3"] = replace(nodes["n3"], to_head="enp1s0")
    proposal = detect(nodes)
    assert proposal.common["NCCL_SOCKET_IFNAME"] == "eno1"
    assert proposal.of_nodes == {
        "n3": {"NCCL_SOCKET_IFNAME": "enp1s0", "GLOO_SOCKET_IFNAME": "enp1s0"}
    }
    assert toml(proposal)[-4:] == [
        "",
        '[env."n3"]',
        'NCCL_SOCKET_IFNAME = "enp1s0"',
        'GLOO_SOCKET_IFNAME = "enp1s0"',
    ]


def test_a_card_that_is_down_is_left_out_there_alone(tmp_path):
    nodes = {}
    for name in ("n1", "n2", "n3"):
        tree = tutorial(tmp_path / name)
        if name == "n2":
            tree.put("sys/class/infiniband/mlx5_4/ports/1/state", "1: DOWN")
        nodes[name] = tree.hardware()
    proposal = detect(nodes)
    assert "mlx5_4" in str(proposal.common["NCCL_IB_HCA"])
    assert "mlx5_4" not in str(proposal.of_nodes["n2"]["NCCL_IB_HCA"])


def test_roce_cards_without_the_one_to_the_head(tmp_path):
    tree = Tree(tmp_path, "10.0.0.1 dev eth0 src 10.0.0.2 uid 0")
    tree.card("mlx5_0", 100, "Ethernet", at=(0, 0x50, 0), interface="eth0")
    for number in (1, 2):
        tree.card(
            f"mlx5_{number}", 400, "Ethernet", at=(0, 0x60 + number, 0), interface=f"r{number}"
        )
    tree.interface("eth0", "10.0.0.2/24")
    assert detect({"n1": tree.hardware()}).common["NCCL_IB_HCA"] == "=mlx5_1,mlx5_2"


def test_nodes_without_cards_go_by_tcp(tmp_path):
    tree = Tree(tmp_path, "10.0.0.1 dev eth0 src 10.0.0.2 uid 0")
    tree.interface("eth0", "10.0.0.2/24")
    proposal = detect({"n1": tree.hardware()})
    assert proposal.common == {
        "NCCL_SOCKET_IFNAME": "eth0",
        "GLOO_SOCKET_IFNAME": "eth0",
        "NCCL_DEBUG": "WARN",
    }
    assert proposal.reasons == ("n1: no card for InfiniBand or RoCE: NCCL goes by TCP",)
