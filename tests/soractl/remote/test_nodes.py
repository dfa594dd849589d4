import contextlib
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soractl.errors import SoractlError
from soractl.remote.nodes import (
    GRAMMAR,
    Node,
    NodeSource,
    find_nodes,
    parse_node_list,
    read_hostfile,
    this_machine,
)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text, name="nodes.txt"):
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_host_file_keeps_its_order_and_expands_ranges(write):
    path = write(
        "\ufeffml-64-node-009           # head\r\n"
        "\r\n"
        "  ml-64-node-[001-003,007] slots=8\r\n"
        "ubuntu@10.0.0.23:2222 slots=8\n"
        "# a comment\n"
        "rack[1-2]-gpu[08-09] spare=true slots=4\n"
        "last spare=false"
    )
    assert read_hostfile(path) == [
        Node("ml-64-node-009"),
        *(Node(f"ml-64-node-{n}", slots=8) for n in ("001", "002", "003", "007")),
        Node("10.0.0.23", user="ubuntu", port=2222, slots=8),
        *(Node(f"rack{r}-gpu{g}", slots=4, spare=True) for r in "12" for g in ("08", "09")),
        Node("last"),
    ]


def test_a_range_is_not_sorted(write):
    path = write("node-[007,001-003]")
    assert [node.name for node in read_hostfile(path)] == [
        "node-007",
        "node-001",
        "node-002",
        "node-003",
    ]


def test_this_machine_is_reached_without_ssh_unless_user_or_port_say_otherwise(write):
    name = socket.gethostname()
    path = write(f"{name}\nme@localhost\nlocalhost:2222\n127.0.0.1 slots=2\n")
    assert [node.local for node in read_hostfile(path)] == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n1\nn2 slots=eight\n", "nodes.txt:2: 'n2 slots=eight': 'slots=eight' is not an option"),
        ("n1 n2\n", "nodes.txt:1: 'n1 n2': 'n2' is not an option"),
        ("n1 slots=0", "nodes.txt:1: 'n1 slots=0': 'slots=0' is not an option"),
        ("n1 spare=yes", "nodes.txt:1: 'n1 spare=yes': 'spare=yes' is not an option"),
        ("-oProxyCommand=x", "nodes.txt:1: '-oProxyCommand=x': '-oProxyCommand=x' is not a host"),
        ("n1:99999", "nodes.txt:1: 'n1:99999': port 99999 is not between 1 and 65535"),
        ("n[3-1]", "nodes.txt:1: 'n[3-1]': [3-1] is not a range of less than 10000 nodes"),
        ("n[1-]", "nodes.txt:1: 'n[1-]': [1-] is not a range"),
        ("n[1-9999999]", "nodes.txt:1: 'n[1-9999999]': [1-9999999] is not a range of less than"
         " 10000 nodes"),
        ("n[1-999][1-999]", "nodes.txt:1: 'n[1-999][1-999]': n[1-999][1-999] means 10000 nodes or"
         " more"),
        ("a\nb\n#\na slots=8\n", "nodes.txt:4: 'a slots=8': a stands on line 1 already"),
        ("n[1-3,2]", "nodes.txt:1: 'n[1-3,2]': n2 stands on line 1 already"),
        ("a b\nc d\ne f\n", "nodes.txt:1: 'a b': 'b' is not an option (and 2 more faulty lines)"),
        ("# nothing\n\n", "nodes.txt: names no node"),
        ("", "nodes.txt: names no node"),
        (b"\x7fELF\x02\x01\x89PNG", "nodes.txt: not a text file: byte 0x89 at 6"),
        ("n\x001\n", "nodes.txt:1: 'n\\x001': 'n\\x001' is not a host"),
    ],
)  # fmt: skip
def test_a_fault_is_shown_with_file_line_text_and_what_is_allowed(write, text, message):
    path = write(text)
    with pytest.raises(SoractlError) as caught:
        read_hostfile(path)
    assert (caught.value.message, caught.value.hint) == (message, GRAMMAR)


def test_one_host_may_have_several_nodes_behind_its_ports(write):
    path = write("gate:2201\ngate:2202\n")
    assert read_hostfile(path) == [Node("gate", port=2201), Node("gate", port=2202)]


def test_a_folder_is_no_host_file(tmp_path):
    with pytest.raises(SoractlError, match="Is a directory"):
        read_hostfile(tmp_path)


@settings(deadline=None)
@given(st.binary() | st.text(alphabet="an1[]-,:@=# \n\r\tslotpre").map(str.encode))
def test_whatever_a_file_holds_it_gives_nodes_or_our_own_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "random.txt"
    path.write_bytes(content)
    with contextlib.suppress(SoractlError):
        assert read_hostfile(path)


def test_a_slurm_node_list_is_expanded():
    names = [node.name for node in parse_node_list("gpu-a[01-02,05],gpu-b7,c[1-2]-x")]
    assert names == ["gpu-a01", "gpu-a02", "gpu-a05", "gpu-b7", "c1-x", "c2-x"]


def test_the_nodes_come_from_the_first_source_that_says_any(write):
    named, other = write("a\n", "named.txt"), write("b\n", "hostfiles/other.txt")
    run_nodes = (Node("r"),)
    environ = {
        "SORACTL_HOSTFILE": "other.txt",
        "SLURM_JOB_NODELIST": "s[1-2]",
        "SLURM_JOB_ID": "7",
    }
    assert find_nodes("named.txt", run_nodes=run_nodes, environ=environ) == NodeSource(
        (Node("a"),), "named.txt", named
    )
    assert find_nodes(None, run_nodes=run_nodes, environ=environ) == NodeSource(
        (Node("b"),), "hostfiles/other.txt (SORACTL_HOSTFILE)", other
    )
    del environ["SORACTL_HOSTFILE"]
    assert find_nodes(None, run_nodes=run_nodes, environ=environ) == NodeSource(
        run_nodes, "the run's own nodes"
    )
    default = write("d\n", "hostfiles/nodes.txt")
    assert find_nodes(None, environ=environ) == NodeSource(
        (Node("d"),), "hostfiles/nodes.txt (default)", default
    )
    default.unlink()
    assert find_nodes(None, environ=environ) == NodeSource((Node("s1"), Node("s2")), "Slurm job 7")
    assert find_nodes(None, environ={}) == NodeSource((this_machine(),), "this machine")


def test_nodes_may_be_named_without_a_file(write):
    assert find_nodes("me@n[1-2],n7", environ={}) == NodeSource(
        (Node("n1", user="me"), Node("n2", user="me"), Node("n7")), "me@n[1-2],n7"
    )


def test_a_list_without_a_node_is_an_error(write):
    with pytest.raises(SoractlError, match="',' names no node") as caught:
        find_nodes(",", environ={})
    assert caught.value.exit_code == 2


def test_a_bare_host_is_refused_with_how_a_node_is_named(write):
    with pytest.raises(SoractlError, match="no host file n1: ") as caught:
        find_nodes("n1", environ={})
    assert caught.value.hint == "a node that stands in no file is named with a comma: `n1,`"
    assert find_nodes("n1,", environ={}).nodes == (Node("n1"),)


def test_a_host_file_that_is_missing_is_an_error_with_the_places_looked_at(write):
    write("a\n", "hostfiles/cluster.txt")
    with pytest.raises(SoractlError) as caught:
        find_nodes("clustr.txt", environ={})
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (
        "no host file clustr.txt: looked for clustr.txt and hostfiles/clustr.txt",
        "did you mean cluster.txt?",
        2,
    )
    with pytest.raises(SoractlError, match=r"no host file x \(SORACTL_HOSTFILE\): looked for x "):
        find_nodes(None, environ={"SORACTL_HOSTFILE": "x"})
