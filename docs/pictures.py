"""Pictures of the terminal for README: real commands' output as SVG, the same at every run."""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from soractl.cluster import gpu_report
from soractl.cluster.gpu_columns import NUMBERS
from soractl.cluster.gpus import GpuProcess, NodeGpus, parse
from soractl.data import buckets, report
from soractl.errors import Fault, FaultKind
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.stages import comparison
from soractl.stages import report as stage_report
from soractl.terminal.lines import Styled
from soractl.terminal.table import for_terminal
from trainer.config import load_stage

REPOSITORY = Path(__file__).parent.parent
RECORDED = REPOSITORY / "tests/cluster/eight-idle-h100/gpus.csv"
WIDTH = 128  # of gpus with a note, on one line
THEME = TerminalTheme(
    (24, 26, 31),
    (220, 223, 228),
    [
        *((40, 44, 52), (224, 108, 117), (152, 195, 121), (229, 192, 123)),
        *((97, 175, 239), (198, 120, 221), (86, 182, 194), (171, 178, 191)),
    ],
)


def pictures() -> dict[str, str]:
    """SVG by file name."""
    made: dict[str, Callable[[], Iterable[Styled]]] = {
        "gpus": _gpus,
        "config-diff": _diff,
        "buckets": _buckets,
    }
    commands = {
        "gpus": "soractl gpus nodes.txt",
        "config-diff": "soractl config diff stage3 stage6",
        "buckets": "soractl data buckets stage2 clips.csv --ranks 192",
    }
    return {f"{name}.svg": _svg(name, commands[name], lines()) for name, lines in made.items()}


def _svg(name: str, command: str, lines: Iterable[Styled]) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in [Styled(f"$ {command}", "bold"), *lines]:
        console.print(Text(line.text, style=line.style), soft_wrap=True)
    return console.export_svg(title="soractl", theme=THEME, unique_id=f"soractl-{name}")


def _gpus() -> Iterator[Styled]:
    """Six nodes: numbers of the busy ones are made of a recorded idle node's by a fixed rule."""
    idle = RECORDED.read_text().partition("\n")[2]
    fields = ",".join(number.query for number in NUMBERS)
    known = RECORDED.read_text().partition("\n")[0]
    assert all(field in known for field in fields.split(","))
    rows = [_busy(f"ml-64-node-00{number}", idle, number) for number in range(1, 5)]
    rows.append(_parsed("ml-64-node-005", idle))
    refused = Fault(FaultKind.UNREACHABLE, "Connection refused")
    rows.append(NodeGpus(Node("ml-64-node-006"), fault=refused))
    yield from gpu_report.table(rows, "nodes").styled(WIDTH)


def _busy(name: str, idle: str, number: int) -> NodeGpus:
    lines = []
    for index, line in enumerate(idle.splitlines()):
        cells = line.split(", ")
        watts = 688 - 3 * number - (index * 7) % 12
        cells[3:8] = ["100", "74230", cells[5], f"{watts}.40", str(58 + (index * 5 + number) % 9)]
        lines.append(", ".join(cells))
    row = _parsed(name, "\n".join(lines) + "\n")
    process = GpuProcess(4711, 0, 74230 * 2**20, "python", "ana", "/shared/runs/007-stage2")
    return replace(row, processes=(process,) * 8)


def _parsed(name: str, text: str) -> NodeGpus:
    known = RECORDED.read_text().partition("\n")[0].replace(" ", "")
    answer = f"=== start 0\n{known}\n=== fields 0\n{text}=== gpus 0\n=== apps 0\n"
    return parse(NodeResult(Node(name), stdout=answer, exit_code=0))


def _diff() -> Iterator[Styled]:
    names = ["stage3", "stage6"]
    stages = [load_stage(name, folder=REPOSITORY / "configs") for name in names]
    rows = comparison.folded(comparison.differing(stages))
    yield from stage_report.table(names, rows).styled()


def _buckets() -> Iterator[Styled]:
    """A table of 60,000 clips drawn like OpenVid: lengths are lognormal, median 148 frames."""
    random = np.random.default_rng(42)
    count = 60_000
    sizes = np.array([(1080, 1920), (720, 1280), (1280, 720), (480, 854)])
    shape = sizes[random.choice(4, count, p=[0.43, 0.45, 0.05, 0.07])]
    table = pd.DataFrame(
        {
            "path": [f"{number}.mp4" for number in range(count)],
            "num_frames": np.maximum(1, random.lognormal(np.log(148), 0.6, count)).astype(int),
            "height": shape[:, 0],
            "width": shape[:, 1],
        }
    )
    with TemporaryDirectory() as folder:
        file = Path(folder) / "clips.csv"
        table.to_csv(file, index=False)
        epoch = buckets.first_epoch("stage2", file, 192, ())
    for part in report.epoch_lines(epoch, None):
        yield from for_terminal(part, WIDTH)
