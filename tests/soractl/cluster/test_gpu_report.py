from dataclasses import replace

import pytest

from soractl.cluster import gpu_report
from soractl.cluster.gpus import Gpu, GpuProcess, NodeGpus
from soractl.cluster.watch import Look
from soractl.errors import Fault, FaultKind
from soractl.remote.nodes import Node, NodeSource


def gpu(index, util, power, **changes):
    values = {"mem_used_bytes": 72 * 2**30, "mem_total_bytes": 80 * 2**30, "temp_c": 60.0}
    notes = changes.pop("notes", ())
    numbers = {"util_pct": util, "power_w": power, **values, **changes}
    return Gpu(index, f"GPU-{index}", "H100", numbers, notes)


BUSY = NodeGpus(
    Node("n1"),
    (gpu(0, 90.0, 600.0), gpu(1, 100.0, 650.0, temp_c=65.0)),
    (GpuProcess(7, 0, 70 * 2**30, "python", "ann", "/shared/runs/007-stage2"),),
)
IDLE = NodeGpus(Node("n2"), (gpu(0, 0.0, 70.0, mem_used_bytes=2**20),))
ODD = NodeGpus(
    Node("n3"),
    (gpu(0, None, None, mem_used_bytes=None, temp_c=None, notes=("GPU 0 is lost",)),),
    notes=("GPU 0 is lost",),
)
DEAD = NodeGpus(Node("n4"), fault=Fault(FaultKind.UNREACHABLE, "no route"))
ROWS = [BUSY, IDLE, ODD, DEAD]


def test_each_node_keeps_its_row_and_what_is_unknown_is_never_a_zero():
    assert gpu_report.table(ROWS, "nodes").lines() == [
        "NODE   GPUS  UTIL %  MEM GiB      POWER W/GPU  POWER W  TEMP C  PROCS  RUN/OWNER   NOTE",
        "n1     2     95      144.0/160.0  625          1250     65      1      007-stage2",
        "n2     1     0       0.0/80.0     70           70       60      0",
        "n3     1     -       -/80.0       -            -        -       0                  "
        "GPU 0 is lost",
        "n4     -     -       -            -            -        -       -                  "
        "unreachable: no route",
        "total  4     63      144.0/320.0  440          1320     65      1",
    ]


def test_each_gpu_has_a_row():
    assert gpu_report.table(ROWS, "gpus").lines() == [
        "NODE  GPU  NAME  UTIL %  MEM GiB    POWER W  TEMP C  NOTE",
        "n1    0    H100  90      72.0/80.0  600      60",
        "n1    1    H100  100     72.0/80.0  650      65",
        "n2    0    H100  0       0.0/80.0   70       60",
        "n3    0    H100  -       -/80.0     -        -       GPU 0 is lost",
        "n4    -          -       -          -        -       unreachable: no route",
    ]


def test_each_process_has_a_row():
    assert gpu_report.table([BUSY, DEAD], "processes").lines() == [
        "NODE  GPU  PID  USER  MEM GiB  RUN         COMMAND",
        "n1    0    7    ann   70.0     007-stage2  python",
        "n4    -    -    -     -        -           unreachable: no route",
    ]


def test_numbers_that_the_driver_does_not_report_are_unknown_and_not_none():
    silent = NodeGpus(
        Node("n5"), notes=("versions differ",), gpus_known=False, processes_known=False
    )
    partly = replace(BUSY, notes=("processes not known",), processes_known=False)
    assert gpu_report.table([silent, partly], "nodes").rows == (
        ("n5", "-", "-", "-", "-", "-", "-", "-", "", "versions differ"),
        ("n1", "2", "95", "144.0/160.0", "625", "1250", "65", "-", "007-stage2",
         "processes not known"),
        ("total", "2", "95", "144.0/160.0", "625", "1250", "65", "-", "", ""),
    )  # fmt: skip
    assert gpu_report.table([silent, DEAD], "nodes").rows[-1][:2] == ("total", "-")
    assert gpu_report.table([silent, partly], "processes").rows == (
        ("n5", "-", "-", "-", "-", "-", "versions differ"),
        ("n1", "0", "7", "ann", "70.0", "007-stage2", "python"),
        ("n1", "-", "-", "-", "-", "-", "processes not known"),
    )
    [node] = gpu_report.as_json([silent])["nodes"]
    assert (node["gpus"], node["processes"]) == (None, None)


def test_a_spreadsheet_gets_commas():
    assert gpu_report.csv_lines(gpu_report.table([IDLE], "gpus")) == [
        "NODE,GPU,NAME,UTIL %,MEM GiB,POWER W,TEMP C,NOTE",
        "n2,0,H100,0,0.0/80.0,70,60,",
    ]


@pytest.mark.parametrize(
    ("only", "order", "names"),
    [
        (None, "node", ["n1", "n2", "n3", "n4"]),
        ("busy", "node", ["n1"]),
        ("idle", "node", ["n2", "n3"]),
        ("bad", "node", ["n3", "n4"]),
        (None, "power", ["n1", "n2", "n3", "n4"]),
    ],
)
def test_rows_can_be_chosen_and_sorted(only, order, names):
    rows = list(reversed(ROWS)) if order != "node" else ROWS
    chosen = [row.node.name for row in gpu_report.choose(rows, only, order)]
    assert chosen == names or (order == "power" and chosen[:2] == names[:2])


def test_the_count_says_what_kind_of_answers_there_were():
    look = Look(NodeSource((), "hostfiles/nodes.txt"), tuple(ROWS), 1.84)
    assert gpu_report.count(look) == (
        "hostfiles/nodes.txt: 2 ok, 1 with notes, 1 without an answer in 1.8 s"
    )
    assert look.exit_code == 4
    stuck = NodeGpus(Node("n5"), fault=Fault(FaultKind.FAILED, "nvidia-smi is stuck"))
    assert Look(look.source, (BUSY, stuck), 1).exit_code == 3
    assert Look(look.source, (stuck,), 1).exit_code == 1
    assert Look(look.source, (BUSY, ODD), 1).exit_code == 0


def test_programs_get_everything_with_its_unit():
    [busy, dead] = gpu_report.as_json([BUSY, DEAD])["nodes"]
    assert list(busy) == ["node", "error", "notes", "elapsed_s", "gpus", "processes"]
    assert busy["gpus"][0]["power_w"] == 600.0
    assert dead == {
        "node": "n4",
        "error": "unreachable: no route",
        "notes": [],
        "elapsed_s": 0.0,
        "gpus": None,
        "processes": None,
    }


def test_a_narrow_terminal_loses_no_number():
    table = gpu_report.table(ROWS, "nodes")
    assert max(len(line) for line in table.lines(80)) <= 80
    narrow = table.lines(60)
    assert max(len(line) for line in narrow) <= 60
    cells = [cell for row in table.rows for cell in row]
    assert [cell for cell in cells if not any(cell in line for line in narrow)] == []
    assert narrow[2:6] == [
        "n1     2     95    144.0/160.0  625    1250   65    1",
        "    RUN/OWNER: 007-stage2",
        "n2     1     0     0.0/80.0     70     70     60    0",
        "n3     1     -     -/80.0       -      -      -     0",
    ]


def test_a_row_that_is_bad_has_words_beside_its_colour():
    for style, cells in zip(
        gpu_report.table(ROWS, "nodes").styles, gpu_report.table(ROWS, "nodes").rows, strict=True
    ):
        assert (style == "red") == bool(cells[-1])


def test_rows_that_are_there_early_have_no_total():
    source = NodeSource((BUSY.node, IDLE.node), "nodes.txt", None)
    early = gpu_report.early_table(Look(source, (BUSY, IDLE), 1.5), "nodes", None, "node")
    assert [row[0] for row in early.rows] == ["n1", "n2"]
