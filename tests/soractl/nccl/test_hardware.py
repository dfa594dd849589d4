from dataclasses import replace

import pytest

from soractl.nccl.hardware import Card, Gpu, Hardware, Interface, distance, parse
from tests.soractl.nccl.trees import Tree, tutorial


def test_a_node_of_the_tutorials_kind(tmp_path):
    tree = tutorial(tmp_path)
    tree.put("env/lib/python3.11/site-packages/nvidia_nccl_cu12-2.28.9.dist-info/METADATA", "")
    tree.put("env/lib/python3.11/site-packages/torch-2.11.0+cu128.dist-info/METADATA", "")
    tree.put("etc/nccl.conf", "# ours\nNCCL_DEBUG=WARN\n\nNCCL_IB_HCA==mlx5_1")
    (tmp_path / "env/bin").mkdir()
    found = tree.hardware()
    assert [card.name for card in found.cards] == [f"mlx5_{number}" for number in range(10)]
    assert found.cards[9] == Card(
        "mlx5_9",
        "1",
        active=True,
        state="ACTIVE",
        gbit_per_s=100.0,
        link_layer="Ethernet",
        interfaces=("eno2",),
        numa=1,
        path="/sys/devices/pci0000:80/0000:a0:01.0/0000:a0:02.0/0000:a0:00.1/0000:a2:00.0",
    )
    assert found.gpus[0] == Gpu(
        "0000:12:00.0",
        0,
        "/sys/devices/pci0000:00/0000:10:01.0/0000:10:02.0/0000:10:00.1/0000:12:00.0",
    )
    assert len(found.gpus) == 8
    assert found.usable_interfaces == (Interface("eno1", True, ("10.0.0.2/24",)),)
    assert (found.to_head, found.cores, found.nccl, found.torch) == (
        "eno1",
        128,
        (2, 28),
        (2, 11),
    )
    assert [(name, value) for _, name, value in found.files] == [
        ("NCCL_DEBUG", "WARN"),
        ("NCCL_IB_HCA", "=mlx5_1"),
    ]


def test_a_node_without_any_of_it(tmp_path):
    assert replace(Tree(tmp_path).hardware(), nccl=None) == Hardware()


def test_a_node_without_iproute2_and_with_a_library_of_the_system(tmp_path):
    """As on a machine with an H200 in a container: its lines, recorded on 2026-11-30."""
    found = parse(
        "nic|eth0|up|-1|yes|\nnic|ifb0|down||no|\nnic|lo|unknown||no|\n"
        "gpu|0000:00:06.0|-1|/sys/devices/pci0000:00/0000:00:06.0\nroute|\ncores|0-15\n"
        "library|nvidia_nccl_system-2.28.3\nend\n"
    )
    assert found == Hardware(
        interfaces=(
            Interface("eth0", True, (), True),
            Interface("ifb0", False, (), False),
            Interface("lo", True, (), False),
        ),
        gpus=(Gpu("0000:00:06.0", None, "/sys/devices/pci0000:00/0000:00:06.0"),),
        knows_addresses=False,
        cores=16,
        nccl=(2, 28),
    )
    assert [one.name for one in found.usable_interfaces] == ["eth0"]


def test_an_answer_that_was_cut_short_is_none():
    with pytest.raises(ValueError, match="too early"):
        parse("hca|mlx5_0|1|4: ACTIVE|400 Gb/sec|InfiniBand||0|\n")


def test_the_head_node_has_no_way_to_itself(tmp_path):
    tree = tutorial(tmp_path)
    tree.routes = "local 10.0.0.1 dev lo src 10.0.0.1 uid 0"
    assert tree.hardware().to_head is None


ROOT = "/sys/devices/pci0000:00"
SWITCH = f"{ROOT}/0000:10:01.0/0000:11:00.0"
WAYS = {
    "PIX": (f"{SWITCH}/0000:12:00.0/0000:13:00.0", f"{SWITCH}/0000:12:01.0/0000:14:00.0"),
    "PXB": (
        f"{SWITCH}/0000:12:00.0/0000:13:00.0/0000:14:00.0/0000:15:00.0",
        f"{SWITCH}/0000:12:01.0/0000:16:00.0/0000:17:00.0/0000:18:00.0",
    ),
    "PHB": (f"{ROOT}/0000:10:01.0/0000:11:00.0", f"{ROOT}/0000:20:01.0/0000:21:00.0"),
    "SYS": (f"{ROOT}/0000:10:01.0/0000:11:00.0", "/sys/devices/pci0000:80/0000:81:00.0"),
    "": (f"{ROOT}/0000:10:01.0", ""),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_way_between_two_devices(way):
    one, other = WAYS[way]
    assert distance(one, other) == distance(other, one) == way


def test_two_roots_of_one_socket_are_phb():
    one, other = WAYS["SYS"]
    assert distance(one, other, (0, 0)) == "PHB"
