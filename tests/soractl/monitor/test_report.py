import socket
from dataclasses import replace

from soractl.monitor import report
from soractl.monitor.live import Snapshot
from tests.soractl.monitor.seen import snapshot


def test_a_row_a_node_with_a_dash_for_what_is_unknown():
    assert report.table(snapshot()).lines() == [
        "NODE  GPUS  POWER W  UTIL %  TEMP C  IB IN     IB OUT    ETH IN    ETH OUT  LOAD  "
        "CLOCK MS  NOTE",
        "n1    2     612      99      61      1.0 GB/s  2.0 GB/s  1.0 kB/s  -        2.5   -12.50",
        "n2    -     -        -       -       -         -         -         -        -     "
        "-         unreachable: no route to host",
        "n3    -     -        -       -       -         -         -         -        -     "
        "-         no answer yet",
    ]


def test_what_is_odd_is_a_note():
    first = replace(snapshot().nodes[0], odd=("GPU 2: power 270 W below its siblings",))
    table = report.table(Snapshot(0, (first,)))
    assert table.rows[0][-1] == "GPU 2: power 270 W below its siblings"


def test_a_screen_has_the_summary_above_its_table():
    line, table = report.screen(snapshot())
    assert line.startswith("3 nodes, 1 answer, GPUs draw 0.6 kW, at ")
    assert table == report.table(snapshot())


def test_the_summary_counts():
    assert report.summary(snapshot()) == "3 nodes, 1 answer, GPUs draw 0.6 kW"
    assert report.summary(Snapshot(0, ())) == "0 nodes, 0 answer"


def test_a_page_on_loopback_says_how_to_reach_it_from_elsewhere():
    first, last = report.address_hints("http://127.0.0.1:8470/")
    assert f"ssh -L 8470:127.0.0.1:8470 {socket.gethostname()}" in first
    assert report.address_hints("http://10.0.0.5:8470/?token=x") == [last]
