import time
from pathlib import Path

from soractl.diagnosis.node_facts import Link, NodeFacts, ask, ask_offsets, bad_links
from soractl.errors import Fault, FaultKind
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult

# `ss -tinoH state established`, cut: the third connection is ssh's.
SOCKETS = """\
0      104    10.77.0.11:41012   10.77.0.13:29500 timer:(on,5.1sec,4)
\t cubic wscale:7,7 rto:13056 backoff:5 rtt:0.1/0.05 bytes_sent:900 bytes_retrans:520 retrans:1/5
0      0      10.77.0.11:41014   10.77.0.12:29500
\t cubic wscale:7,7 rto:204 rtt:0.1/0.05 bytes_retrans:520 retrans:0/5
0      0      10.77.0.11:22      10.77.0.13:55000 timer:(on,5.1sec,4)
\t cubic rto:13056 backoff:5 retrans:1/5
0      52     [::ffff:10.77.0.11]:41016   [::ffff:10.77.0.99]:4000 timer:(on,1sec,1)
\t cubic rto:408 backoff:1 retrans:1/1
"""
HERE = Node("here", local=True)


def test_links_are_named_by_the_connections_that_send_again_now():
    facts = [
        NodeFacts("n1", {"sockets": SOCKETS, "addresses": "10.77.0.11 \n"}),
        NodeFacts("n3", {"addresses": "10.77.0.13 fd77::13\n"}),
    ]
    assert bad_links(facts) == [Link("n1", "10.77.0.99", 1), Link("n1", "n3", 1)]
    assert str(bad_links(facts)[1]) == "n1 -> n3: packets are lost on 1 connection"


def test_a_node_gives_its_facts_and_one_that_does_not_answer_a_fault(tmp_path):
    with Connections() as remote:
        [facts] = ask([HERE], tmp_path, remote)
    assert facts.fault is None
    assert facts.texts.keys() == {
        "addresses",
        "nvidia",
        "kernel",
        "disk",
        "sockets",
        "clock",
        "load",
    }
    assert facts.texts["clock"] == f"{facts.clock_unix_s:.0f}\n"
    assert facts.clock_unix_s > 1.7e9
    assert str(tmp_path) not in facts.texts["kernel"]
    assert "% " in facts.texts["disk"]
    fault = Fault(FaultKind.UNREACHABLE)
    [lost] = ask([HERE], Path("/"), lambda node, *_: NodeResult(node, fault=fault))
    assert lost == NodeFacts("here", {}, fault)


def test_a_clock_is_known_within_half_of_the_round_trip():
    def behind(node, request, deadline_s):
        assert request.argv == ("date", "+%s.%N")
        return NodeResult(node, stdout=f"{time.time() - 300:.9f}\n", exit_code=0)

    offset = ask_offsets([HERE], behind)["here"]
    assert abs(offset.value + 300) <= offset.bound + 1e-6
    assert offset.bound < 1


def test_a_node_that_does_not_answer_has_no_offset():
    fault = Fault(FaultKind.UNREACHABLE)
    assert ask_offsets([HERE], lambda node, *_: NodeResult(node, fault=fault)) == {}
