"""A made-up cluster in a store: 24 nodes of 8 GPUs over a day, with faults at known places."""

import json
import math
import random

from soractl.monitor.sample import Values
from soractl.monitor.store import Store
from trainer.run_dir import create_run

DAY_S = 86400
SLOW = ("node-017", 2)  # 380 W for 90 minutes, from 60 % of the time on
HOT = "node-006"  # 82 C for three hours, from 55 % on
ABSENT = ("node-021", 40)  # minutes, at 30 %
SHORT_GAP = ("node-009", 3)  # minutes, at 75 %
LATE_CLOCK = "node-003"  # 350 ms behind from 80 % on
SAVES_EVERY_S = 1800
PAUSES = ((0.27, 600), (0.70, 420))  # the run stands still: share of the time, seconds


def names(count=24):
    return [f"node-{i + 1:03d}" for i in range(count)]


def fill(folder, end, *, nodes=24, gpus=8, ports=8, links=2, seconds=DAY_S, every_s=60, seed=1):
    """The store of a day with one look every so many seconds, and its minutes."""
    draw = random.Random(seed)
    store = Store(folder)
    chip = {(name, g): draw.gauss(0, 9) for name in names(nodes) for g in range(gpus)}
    begin = int(end - seconds) // every_s * every_s
    for unix_s in range(begin, int(end), every_s):
        share = (unix_s - begin) / seconds
        found = {}
        for place, name in enumerate(names(nodes)):
            if not is_absent(name, share, seconds):
                found[name] = node_values(
                    draw, name, place, unix_s - begin, seconds, share, chip, gpus, ports, links
                )
        store.add(unix_s, found)
        if unix_s % 60 == 0:
            for place, name in enumerate(names(nodes)):
                late = -0.35 if name == LATE_CLOCK and share > 0.8 else 0.0
                offset = late + 1e-4 * math.sin(share * 20 + place) + draw.gauss(0, 2e-5)
                store.add_clock(unix_s, name, offset, 9e-5)
    store.add_step(begin + 0.8 * seconds, LATE_CLOCK, -0.35, 1e-4)
    store.close_minutes(int(end))
    store.close()


def is_absent(name, share, seconds):
    for (node, minutes), at in ((ABSENT, 0.3), (SHORT_GAP, 0.75)):
        if name == node and at <= share < at + minutes * 60 / seconds:
            return True
    return False


def is_paused(share, seconds):
    return any(at <= share < at + length / seconds for at, length in PAUSES)


def node_values(draw, name, place, at_s, seconds, share, chip, gpus, ports, links):
    saving = at_s % SAVES_EVERY_S < 60 and at_s > 60
    paused = is_paused(share, seconds)
    busy = 0.12 if paused else 0.55 if saving else 1.0
    found = {}
    for g in range(gpus):
        power = (640 + chip[name, g]) * busy + draw.gauss(0, 5)
        if (name, g) == SLOW and 0.6 <= share < 0.6 + 5400 / seconds and not paused:
            power = 380 + draw.gauss(0, 5)
        temp = 34 + 28 * power / 640 + 3 * (place % 4 == 3) + draw.gauss(0, 0.5)
        if name == HOT and 0.55 <= share < 0.68:
            temp += 19
        found[g] = {
            "power_w": power,
            "util_pct": 0.0 if paused else min(100.0, 99 * busy**0.2 + draw.gauss(0, 0.6)),
            "temp_c": temp,
            "clock_mhz": 1980.0 if paused else 1755 + chip[name, g] + draw.gauss(0, 8),
            "mem_mib": 71000 + 50 * g + draw.gauss(0, 30),
            "reasons": 1.0 if paused else 4.0,
        }
    rate = (0.02 if paused else 0.45 if saving else 1.0) * 9.5e9
    burst = 1.6e9 if saving else 6e6
    return Values(
        node={
            "load": 14 + draw.gauss(0, 1),
            "cpu_pct": 9 + draw.gauss(0, 1),
            "mem_available_mib": 1.4e6 + draw.gauss(0, 2e3),
        },
        gpus=found,
        ports={f"mlx5_{i + 1}/1": rates(draw, rate) for i in range(ports)},
        links={f"eno{i + 1}": rates(draw, burst if i == 0 else 1e4) for i in range(links)},
        counters={f"mlx5_{i + 1}/1 symbol_error": 0 for i in range(ports)},
        facts={
            "node": {"uptime_s": "99"},
            **{
                f"GPU {g}": {
                    "name": "NVIDIA H100 80GB HBM3",
                    "power_limit_w": "700.00",
                    "mem_mib": "81559",
                }
                for g in range(gpus)
            },
            **{
                f"mlx5_{i + 1}/1": {"state": "4", "rate_gbps": "400", "layer": "InfiniBand"}
                for i in range(ports)
            },
        },
    )


def rates(draw, rate):
    return {
        f"{way}_bytes_per_s": max(0.0, rate * (1 + draw.gauss(0, 0.02))) for way in ("in", "out")
    }


def write_run(root, end, *, seconds=DAY_S, step_s=18.0, ranks=192, nodes=24):
    """A run of those nodes: metrics of every tenth step, events, an interruption."""
    draw = random.Random(7)
    run = create_run(root, "stage2")
    begin, step, rows = end - seconds, 0, []
    attempt = 1
    at = begin + 60
    while at < end:
        share = (at - begin) / seconds
        if is_paused(share, seconds):
            at += 30
            attempt = 1 + sum(share > pause for pause, _ in PAUSES)
            continue
        step += 10
        slow = 1.22 if 0.6 <= share < 0.6 + 5400 / seconds else 1.0
        per_step = step_s / 10 * slow * (1 + abs(draw.gauss(0, 0.01)))
        slowest = 130 if slow > 1 and draw.random() < 0.93 else draw.randrange(ranks)
        rows.append(
            {
                "global_step": step,
                "attempt": attempt,
                "time_unix_s": at,
                "loss": 0.3 + 0.9 * math.exp(-step / 900) + draw.gauss(0, 0.006),
                "s_per_step": per_step,
                "ranks/slowest": slowest,
                "ranks/slowest_s": per_step * 0.97,
                "ranks/mean_s": step_s / 10 * 0.9,
            }
        )
        at += per_step * 10
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    events = [{"time_unix_s": begin + 5, "kind": "started", "by": "launch", "attempt": 1}]
    for number, (pause, length) in enumerate(PAUSES, start=1):
        when = begin + pause * seconds
        events += [
            {
                "time_unix_s": when,
                "kind": ("hung", "lost")[number - 1],
                "by": "supervisor",
                "attempt": number,
                "node": ("node-012", "node-019")[number - 1],
                "text": ("no step for 96 s", "silent, no step for 90 s")[number - 1],
            },
            {
                "time_unix_s": when + length,
                "kind": "restarted",
                "by": "supervisor",
                "attempt": number + 1,
            },
        ]
    events.append(
        {
            "time_unix_s": begin + 0.7 * seconds + 30,
            "kind": "quarantined",
            "by": "supervisor",
            "node": "node-019",
            "text": "lost twice",
        }
    )
    for number in range(1, int(seconds // SAVES_EVERY_S)):
        when = begin + number * SAVES_EVERY_S
        if not is_paused((when - begin) / seconds, seconds):
            events.append(
                {"time_unix_s": when, "kind": "saved", "by": "trainer", "step": 100 * number}
            )
    events.sort(key=lambda event: event["time_unix_s"])
    run.events.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    return run
