"""Traces of a cluster in training, with faults planted: what `diagnosis/odd` is measured on.

Written from the description of the faults alone, before the rule. 24 nodes of eight GPUs and eight
ports, a look every 5 s for 20 minutes. What is innocent in them: racks with air of their own, chips
that differ, steps that a look hits at any phase, saves, validation, nodes whose loader stalls or
whose page cache jumps for a while, single drops of a link, looks without an answer.
"""

from dataclasses import dataclass, field

import numpy as np

NODES, GPUS, PORTS, LOOKS, LOOK_S = 24, 8, 8, 240, 5.0
KINDS = ("slow", "thermal", "flap", "leak", "quiet")
SILENCE = 60  # looks in which a fault never begins: nobody knows yet what is usual


@dataclass
class Trace:
    """Values of each look by measure, and what was planted."""

    kind: str
    node: int | None  # of the fault
    thing: int | None  # its GPU or port
    begins: int  # look
    power_w: np.ndarray = field(repr=False)  # looks, nodes, GPUs; NaN without an answer
    clock_mhz: np.ndarray = field(repr=False)
    temperature_c: np.ndarray = field(repr=False)
    rate: np.ndarray = field(repr=False)  # GB/s of ports
    downs: np.ndarray = field(repr=False)  # times that a port's link went down, since the last look
    memory_gib: np.ndarray = field(repr=False)  # looks, nodes: used by the host


def make(seed: int, kind: str, noise: float = 1.0) -> Trace:
    """A trace with one fault of a kind, or none; `noise` scales all that is innocent."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    begins = int(rng.integers(SILENCE, LOOKS - 90))
    node, thing = int(rng.integers(NODES)), int(rng.integers(GPUS))
    at = np.arange(LOOKS)
    after = at >= begins

    work = _work(rng, noise)  # looks, nodes: 1 at full work
    share = np.ones((LOOKS, NODES, GPUS))  # of its usual power
    heat = np.zeros((LOOKS, NODES, GPUS))
    downs = (rng.random((LOOKS, NODES, PORTS)) < 4e-6 * noise).astype(float)
    leaked = np.zeros((LOOKS, NODES))
    if kind == "slow":
        share[after, node, thing] = rng.uniform(0.62, 0.85)
        work[after] *= rng.uniform(0.85, 1.0)  # all others wait for it a little
    elif kind == "thermal":
        ramp = np.clip((at - begins) * LOOK_S / rng.uniform(20, 150), 0, 1)
        heat[:, node, thing] = ramp * rng.uniform(11, 22)
    elif kind == "flap":
        times = begins + np.cumsum([0, *rng.integers(6, 30, size=12)])
        downs[times[times < LOOKS], node, thing] += 1
    elif kind == "leak":
        leaked[:, node] = np.clip(at - begins, 0, None) * LOOK_S / 60 * rng.uniform(2, 10)

    power = _power(rng, work, share, noise)
    temperature = _temperature(rng, power, noise) + heat
    hot = np.clip(temperature - 84, 0, None)  # a chip that is too hot slows down a little
    power *= 1 - 0.012 * hot
    clock = 1980 - 60 * rng.random((NODES, GPUS)) * noise - 14 * hot
    clock = clock * (0.35 + 0.65 * share) + rng.normal(0, 6 * noise, power.shape)
    clock = np.where(work[..., None] > 0.5, clock, 1980 - rng.integers(0, 2, power.shape) * 15)
    rate = _rate(rng, work, downs, noise)
    memory = _memory(rng, noise) + leaked
    silent = rng.random((LOOKS, NODES)) < 0.004 * noise  # looks without an answer
    for values in (power, clock, temperature, rate, downs):
        values[silent] = np.nan
    memory[silent] = np.nan
    planted = kind != "quiet"
    return Trace(
        kind=kind,
        node=node if planted else None,
        thing=(None if kind == "leak" else thing) if planted else None,
        begins=begins if planted else LOOKS,
        power_w=power,
        clock_mhz=clock,
        temperature_c=temperature,
        rate=rate,
        downs=downs,
        memory_gib=memory,
    )


def _work(rng: np.random.Generator, noise: float) -> np.ndarray:
    """How busy each node is at each look; it looks at its own moment of the common step."""
    work = np.ones((LOOKS, NODES))
    for begin in range(int(rng.integers(20, 70)), LOOKS, int(rng.integers(50, 90))):
        length = int(rng.integers(3, 9))  # a save
        for node in range(NODES):
            late = int(rng.integers(0, 2))
            work[begin + late : begin + late + length, node] = rng.uniform(0.15, 0.3)
    if rng.random() < 0.3:  # validation, or a wait for data that all have
        begin = int(rng.integers(30, LOOKS - 30))
        work[begin : begin + int(rng.integers(6, 20))] *= rng.uniform(0.4, 0.7)
    period_s, depth = rng.uniform(2, 20), rng.uniform(0.0, 0.12)
    moment = np.arange(LOOKS)[:, None] * LOOK_S + rng.uniform(0, 1.0, NODES)
    work *= 1 - depth * (np.sin(2 * np.pi * moment / period_s) > 0.6)
    for _ in range(rng.poisson(2 * noise)):  # a loader stalls on one node alone
        begin, node = int(rng.integers(LOOKS)), int(rng.integers(NODES))
        work[begin : begin + int(rng.integers(1, 6)), node] *= rng.uniform(0.3, 0.8)
    return work


def _power(
    rng: np.random.Generator, work: np.ndarray, share: np.ndarray, noise: float
) -> np.ndarray:
    chips = 1 + rng.normal(0, 0.02 * noise, (NODES, GPUS))
    full = 640 * rng.uniform(0.85, 1.05) * chips
    power = 75 + (full - 75) * work[..., None] * share
    jitter = rng.normal(0, 11 * noise, power.shape)
    odd_look = rng.random(power.shape) < 0.004 * noise  # a sample between two kernels
    between = power * rng.uniform(0.4, 0.9, power.shape)
    return np.asarray(np.where(odd_look, between, power) + jitter)


def _temperature(rng: np.random.Generator, power: np.ndarray, noise: float) -> np.ndarray:
    """Follows power within a minute, above the air of its rack, which drifts."""
    racks = rng.normal(27, 2 * noise, (NODES + 3) // 4).repeat(4)[:NODES]
    places = np.linspace(0, 7, GPUS)[None, :] + rng.normal(0, 1.2 * noise, (NODES, GPUS))
    drift = 2.5 * noise * np.sin(np.arange(LOOKS) / LOOKS * rng.uniform(1, 7) + rng.uniform(0, 6))
    aims = racks[None, :, None] + places[None] + power * 0.05 + drift[:, None, None]
    felt = np.empty_like(aims)
    felt[0] = aims[0]
    for look in range(1, LOOKS):
        felt[look] = felt[look - 1] + 0.25 * (aims[look] - felt[look - 1])
    return np.asarray(np.round(felt + rng.normal(0, 0.5 * noise, felt.shape)))


def _rate(
    rng: np.random.Generator, work: np.ndarray, downs: np.ndarray, noise: float
) -> np.ndarray:
    """Bytes of the reduce; a port whose link went down carries nothing for some seconds."""
    usual = rng.uniform(2, 20)
    ports = 1 + rng.normal(0, 0.01 * noise, (NODES, PORTS))
    spread = rng.normal(1, 0.05 * noise, (LOOKS, NODES, PORTS))
    rate = usual * ports * work[..., None] * spread
    for look, node, port in zip(*np.nonzero(downs), strict=True):
        rate[look : look + 1 + int(rng.integers(0, 4)), node, port] = 0
    return np.clip(rate, 0, None)


def _memory(rng: np.random.Generator, noise: float) -> np.ndarray:
    """Gibibytes of the host; loaders breathe, saves are copied, a node's own job comes and goes."""
    base = 210 + rng.normal(0, 6 * noise, NODES)
    grows = rng.uniform(0, 0.1, NODES) * np.arange(LOOKS)[:, None] * LOOK_S / 60
    breath = 3 * noise * np.sin(np.arange(LOOKS)[:, None] / rng.uniform(3, 12, NODES))
    memory = base + grows + breath + rng.normal(0, 1.0 * noise, (LOOKS, NODES))
    for begin in range(int(rng.integers(20, 70)), LOOKS, int(rng.integers(50, 90))):
        memory[begin : begin + int(rng.integers(3, 12))] += rng.uniform(20, 60)  # all of them
    for _ in range(rng.poisson(1.5 * noise)):  # somebody's copy, on one node
        begin, node = int(rng.integers(LOOKS)), int(rng.integers(NODES))
        memory[begin : begin + int(rng.integers(2, 30)), node] += rng.uniform(10, 80)
    return memory
