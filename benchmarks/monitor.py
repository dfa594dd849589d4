"""Cost of the monitor: the probe on a node, the store of a day, the page of a day in Chromium.

    python benchmarks/monitor.py [probe] [store] [page] [--hours 24] [--looks 600]

The probe runs over ssh on a loopback sshd, on a made-up tree of 9 ports and 4 interfaces, without
nvidia-smi; its processor time is that of its shell, `cat` and sshd, by /proc.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from soractl.monitor.sample import Values
from soractl.monitor.service import MonitorOptions, export
from soractl.monitor.store import Store
from soractl.remote.nodes import Node, NodeSource
from tests.soractl.monitor import fleet
from tests.soractl.monitor.test_probe import PROBE, plant

NOON = 1_796_040_000
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def jiffies_of(pids: set[int]) -> int:
    """Processor time of processes and their ended children, in ticks."""
    total = 0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += sum(int(word) for word in words[11:15])
    return total


def children_of(pid: int) -> set[int]:
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= children_of(int(child))
    return found


def probe(looks: int) -> None:
    from soractl.remote.connections import Connections
    from tests.soractl.conftest import SshServer, _make_key, _run_sshd, free_port  # its sshd

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = plant(folder / "root", ports=9, interfaces=4)
        server = start_sshd(folder, SshServer, _run_sshd, free_port, _make_key)
        argv = ("sh", "-c", PROBE.read_text(), "sh", "5000", "index", str(root))
        with Connections(server.options) as remote:
            dialogue = remote.dialogue(server.node, argv, 10)
            size = len(dialogue.ask(b"look", 10))
            sshd = int((folder / "pid").read_text())
            pids = children_of(sshd)
            before, began = jiffies_of(pids), time.monotonic()
            for _ in range(looks):
                dialogue.ask(b"look", 10)
            took_s = (jiffies_of(pids) - before) * TICK_S / looks
            wall_s = (time.monotonic() - began) / looks
            share = 100 * took_s / 5
            print(f"probe: {1000 * took_s:.2f} ms of a core a look ({share:.3f} % at 5 s)")
            print(f"  {1000 * wall_s:.2f} ms until it is here, {size} bytes")
        os.kill(sshd, 9)


def start_sshd(folder: Path, server_type: Any, run: Any, free_port: Any, make_key: Any) -> Any:
    server = server_type("127.0.77.9", free_port(), folder)
    make_key(folder / "id_ed25519")
    (folder / "authorized_keys").write_text((folder / "id_ed25519.pub").read_text())
    host_key = make_key(folder / "host_key")
    (folder / "known_hosts").write_text(f"[{server.host}]:{server.port} {host_key}\n")
    (folder / "config").touch()
    lines = (
        f"ListenAddress {server.host}",
        f"Port {server.port}",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        "StrictModes no",
        "UsePAM no",
        "PidFile none",
    )
    (folder / "sshd_config").write_text("\n".join(lines))
    process = run(folder)
    inner = children_of(process.pid) - {process.pid}
    sshd = next(pid for pid in inner if "sshd" in Path(f"/proc/{pid}/comm").read_text())
    (folder / "pid").write_text(str(sshd))
    return server


def store(hours: float) -> None:
    """A day of 24 nodes, 8 GPUs, 9 ports and 4 interfaces, a look each five seconds.

    Five minutes are written again and again: no record depends on another's numbers.
    """
    import random

    draw = random.Random(1)
    chip = {(name, g): draw.gauss(0, 9) for name in fleet.names() for g in range(8)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = Store(folder)
        added, closed = [], []
        prepared: list[dict[str, Values]] = [
            {
                node: fleet.node_values(draw, node, place, at_s, 86400, 0.1, chip, 8, 9, 4)
                for place, node in enumerate(fleet.names())
            }
            for at_s in range(0, 300, 5)
        ]
        for at_s in range(0, int(hours * 3600), 5):
            found = prepared[at_s // 5 % len(prepared)]
            began = time.process_time()
            kept.add(NOON + at_s, found)
            added.append(time.process_time() - began)
            if at_s % 60 == 0:
                began = time.process_time()
                kept.close_minutes(NOON + at_s)
                closed.append(time.process_time() - began)
        kept.close_minutes(NOON + int(hours * 3600) + 60)
        kept.close()
        looks = sum(path.stat().st_size for path in folder.glob("looks-*"))
        minutes = (folder / "minutes.db").stat().st_size
        day = 24 / hours
        print(
            f"store: {(looks + minutes) * day / 1e6:.1f} MB a day (looks {looks * day / 1e6:.1f}, "
            f"minutes {minutes * day / 1e6:.1f}), {hours:g} h written; of a core: a look of all "
            f"nodes {1000 * statistics.median(added):.1f} ms, a minute's summary "
            f"{1000 * statistics.median(closed):.1f} ms"
        )


def page() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        fleet.fill(folder / "store", NOON)
        run = fleet.write_run(folder / "runs", NOON)
        source = NodeSource(tuple(Node(one) for one in fleet.names()), "made up")
        options = MonitorOptions(source=source, run=run, folder=folder / "store")
        began = time.monotonic()
        export(options, folder / "page.html")
        size = (folder / "page.html").stat().st_size
        print(f"export: {size / 1e6:.2f} MB in {time.monotonic() - began:.2f} s")
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        paints, hovers, columns, draws = [], [], [], []
        for _ in range(5):
            context = browser.new_context(viewport={"width": 1280, "height": 1000})
            view = context.new_page()
            view.goto((folder / "page.html").as_uri())
            view.wait_for_selector("body[data-ready]")
            view.wait_for_timeout(300)
            paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            drawn = "performance.getEntriesByName('drawn')[0].startTime"
            paints.append((view.evaluate(paint), view.evaluate(drawn)))
            box = view.locator("canvas.map").nth(2).bounding_box()
            assert box is not None
            for step in range(60):
                view.mouse.move(box["x"] + 5 + step * 5, box["y"] + 10 + step * 3)
            hovers += view.evaluate("took.hover")
            columns += view.evaluate(LOOKS)
            view.wait_for_timeout(1500)
            draws += view.evaluate("took.draw")
            context.close()
        browser.close()
        first, drawn_ms = (statistics.median(values) for values in zip(*paints, strict=True))
        print(f"page of 24 h: first paint {first:.0f} ms, all panels drawn {drawn_ms:.0f} ms")
        print(f"hover handler: {spread(hovers)}")
        print(f"a look into the newest column: {spread(columns)}; drawing a map: {spread(draws)}")


def spread(values: list[float]) -> str:
    ordered = sorted(values)
    middle, late = statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
    return f"median {middle:.2f} ms, 95 % {late:.2f}, most {ordered[-1]:.2f} ({len(ordered)} times)"


LOOKS = """() => {
  state.follow = true;
  const begin = state.loaded.timeAt(state.loaded.columns - 1);
  const nodes = state.loaded.nodes.map((node) => ({
    node, error: null, gpus: [...Array(8).keys()].map((gpu) =>
      ({ gpu, power_w: 640 + gpu, util_pct: 99, temp_c: 60, clock_mhz: 1, mem_mib: 1, reasons: 4 }),
    ),
    ports: [{ port: 'a', in_bytes_per_s: 7e10, out_bytes_per_s: 7e10 }],
    links: [{ interface: 'b', in_bytes_per_s: 1e6, out_bytes_per_s: 1e6 }],
    clock_offset_s: 1e-4, clock_bound_s: 1e-4, odd_answer: '',
  }));
  for (let i = 1; i <= 30; i++) {
    const unix_s = begin + 5 * i;
    for (const node of nodes) node.seen_unix_s = unix_s;
    look({ unix_s, nodes });
  }
  return took.look;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["probe", "store", "page", []], default=[])
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--looks", type=int, default=600)
    options = parser.parse_args()
    parts = options.parts or ["probe", "store", "page"]
    load = os.getloadavg()[0]
    print(f"{platform.node()}, Python {platform.python_version()}, load {load:.1f}")
    if "probe" in parts:
        probe(options.looks)
    if "store" in parts:
        store(options.hours)
    if "page" in parts:
        page()


if __name__ == "__main__":
    main()
