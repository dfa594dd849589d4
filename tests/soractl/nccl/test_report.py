from dataclasses import replace
from pathlib import Path

from soractl.cluster.settings import Cluster
from soractl.errors import Fault, FaultKind
from soractl.nccl import report
from soractl.nccl.ask import NodesEnvironment
from soractl.nccl.detect import Proposal
from soractl.nccl.hardware import Hardware
from soractl.nccl.meanings import MEANINGS
from soractl.remote.nodes import Node, NodeSource

NODES = tuple(Node(f"n{number}") for number in (1, 2, 3))
ENV = {
    "NCCL_DEBUG": "WARN",
    "NCCL_IB_HAC": "=mlx5_1",
    "OWN": 3,
    "n3*": {"NCCL_DEBUG": "TRACE"},
}
CONF = Hardware(files=(("/etc/nccl.conf", "NCCL_ALGO", "Ring"),))
FOUND = NodesEnvironment(
    NodeSource(NODES, "three.txt"),
    Path("hostfiles/three.toml"),
    Cluster(env=ENV),
    {"WANDB_MODE": "offline"},
    {"n1": CONF, "n2": CONF},
    {"n3": Fault(FaultKind.UNREACHABLE, "no route")},
)


def test_each_variable_has_its_value_origin_and_meaning():
    file = "hostfiles/three.toml"
    assert report.show(FOUND).rows == [
        ("PYTHONUNBUFFERED", "1", "soractl", "what ranks print is in the log at once"),
        ("TOKENIZERS_PARALLELISM", "false", "soractl", "threads of the tokenizer"),
        ("WANDB_MODE", "offline", "your environment", "online, offline or disabled"),
        ("NCCL_DEBUG", "WARN", file, "what NCCL logs: VERSION, WARN, INFO or TRACE"),
        ("NCCL_IB_HAC", "=mlx5_1", file, ""),
        ("OWN", "3", file, ""),
        ("NCCL_DEBUG", "TRACE", f'{file} [env."n3*"]', MEANINGS["NCCL_DEBUG"]),
        ("NCCL_ALGO", "Ring", "/etc/nccl.conf on n[1-2]", MEANINGS["NCCL_ALGO"]),
    ]


def test_findings_name_their_nodes_and_are_counted():
    assert report.check(FOUND)[0].lines() == [
        "         VARIABLE     FINDING",
        "error    NCCL_IB_HAC  nobody reads this name; did you mean NCCL_IB_HCA?",
        "warning  NCCL_DEBUG   n3: TRACE floods every node's log; WARN is enough",
    ]
    assert list(report.notes(FOUND)) == ["n3: unreachable: no route"]
    assert report.count(FOUND) == "three.txt: 1 error, 1 warning; 2 of 3 nodes looked at"


def test_nothing_to_find_is_a_line():
    quiet = replace(FOUND, cluster=Cluster(), faults={})
    assert report.check(quiet) == []
    assert report.count(quiet) == "three.txt: nothing to find; 2 of 3 nodes looked at"


def test_json():
    shown = report.show_json(FOUND)
    assert shown["variables"][3] == {
        "name": "NCCL_DEBUG",
        "value": "WARN",
        "from": "hostfiles/three.toml",
        "meaning": "what NCCL logs: VERSION, WARN, INFO or TRACE",
    }
    assert shown["nodes"][2] == {
        "node": "n3",
        "env": {
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "WANDB_MODE": "offline",
            "NCCL_DEBUG": "TRACE",
            "NCCL_IB_HAC": "=mlx5_1",
            "OWN": "3",
        },
        "error": "unreachable: no route",
    }
    assert report.check_json(FOUND)["findings"][1] == {
        "severity": "warning",
        "name": "NCCL_DEBUG",
        "message": "TRACE floods every node's log; WARN is enough",
        "nodes": ("n3",),
    }
    proposal = Proposal({"NCCL_DEBUG": "WARN"}, {"n2": {"OMP_NUM_THREADS": 8}}, ("why",))
    assert report.detect_json(proposal) == {
        "env": {"NCCL_DEBUG": "WARN"},
        "of_nodes": {"n2": {"OMP_NUM_THREADS": 8}},
        "reasons": ["why"],
    }
