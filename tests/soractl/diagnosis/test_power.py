from soractl.diagnosis.power import ask_power, samples_of
from soractl.diagnosis.second_sign import PowerSample
from soractl.errors import Fault, FaultKind
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

PRINTED = """0, 123.07, 700.00, 100
1, [N/A], 700.00, 0
2, 120.64, 700.00, 0
"""
NODE = Node("n1")


def test_each_gpu_that_tells_its_numbers_has_a_sample():
    assert samples_of(NodeResult(NODE, stdout=PRINTED, exit_code=0), 5.0) == [
        PowerSample("n1:0", 5.0, 123.07, 700.0, 100.0),
        PowerSample("n1:2", 5.0, 120.64, 700.0, 0.0),
    ]


def test_nodes_without_gpus_and_silent_ones_have_none():
    message = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"
    results = {
        "n1": NodeResult(NODE, stdout=message, exit_code=9),
        "n2": NodeResult(Node("n2"), fault=Fault(FaultKind.UNREACHABLE, "no route")),
        "n3": NodeResult(Node("n3"), stdout=PRINTED, exit_code=0),
    }
    nodes = [Node(name) for name in results]
    found = ask_power(nodes, lambda node, request, deadline_s: results[node.name])
    assert [one.gpu for one in found] == ["n3:0", "n3:2"]
