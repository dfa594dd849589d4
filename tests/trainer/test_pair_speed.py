import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from trainer.pair_speed import network_bytes_per_s


def ask(question):
    done = subprocess.run(
        [sys.executable, "-m", "trainer.pair_speed"],
        input=json.dumps(question) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def question(rank, port, **others):
    place = {"address": "127.0.0.1", "port": port, "rank": rank, "world": 2, "device": "cpu"}
    return place | {"bytes": 1 << 16, "times": 2, "timeout_s": 60} | others


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_ranks_measure_the_same_all_reduce():
    port = free_port()
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(ask, (question(0, port), question(1, port))))
    assert [list(answer) for answer in answers] == [["bytes_per_s"]] * 2
    assert all(answer["bytes_per_s"] > 0 for answer in answers)


def test_a_rank_without_its_peer_answers_with_an_error():
    assert list(ask(question(1, free_port(), timeout_s=1))) == ["error"]


def test_active_ports_of_infiniband_are_summed_before_those_of_ethernet(tmp_path):
    def port(device, state, rate, layer):
        folder = tmp_path / device / "ports/1"
        folder.mkdir(parents=True)
        for name, text in (("state", state), ("rate", rate), ("link_layer", layer)):
            (folder / name).write_text(f"{text}\n")

    assert network_bytes_per_s(tmp_path) == 0.0
    port("mlx5_bond_0", "4: ACTIVE", "200 Gb/sec (2X NDR)", "Ethernet")
    assert network_bytes_per_s(tmp_path) == 25e9
    for number in range(2):
        port(f"mlx5_{number}", "4: ACTIVE", "400 Gb/sec (4X NDR)", "InfiniBand")
    port("mlx5_2", "1: DOWN", "400 Gb/sec (4X NDR)", "InfiniBand")
    assert network_bytes_per_s(tmp_path) == 100e9
