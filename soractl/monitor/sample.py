"""Sample of a node: what `probe.sh` printed, and the rates between two of them. Pure.

A number that cannot be known is None, never 0: a file that is not there, a counter that fell, as
after a reset of a port or a restart of the node, or GPUs whose numbers are old.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GPU_FIELDS = (
    "index",
    "power.draw",
    "utilization.gpu",
    "temperature.gpu",
    "clocks.sm",
    "memory.used",
    "clocks_throttle_reasons.active",
    "ecc.errors.corrected.volatile.total",
    "ecc.errors.uncorrected.volatile.total",
    "power.limit",
    "memory.total",
    "name",
)
OPTIONAL_FIELDS = GPU_FIELDS[4:-1]  # an older driver may refuse one, and then all
PORT_FIELDS = (
    *("state", "rate_gbps", "layer", "in_words", "out_words", "symbol_error"),
    *("link_error_recovery", "link_downed", "rcv_errors", "xmit_discards", "xmit_wait"),
)
LINK_FIELDS = (
    *("state", "speed_mbps", "carrier_changes", "in_bytes", "out_bytes"),
    *("rx_errors", "tx_errors", "rx_dropped", "tx_dropped"),
)
WORD_BYTES = 4  # the unit of port_*_data
SATURATED = 2**32 - 1  # where ports without 64-bit counters stop
NOT_COUNTERS = {"state", "rate_gbps", "layer", "speed_mbps", "in_words", "out_words"}
NOT_COUNTERS |= {"in_bytes", "out_bytes"}

Fields = Mapping[str, str]


@dataclass(frozen=True)
class Sample:
    """One answer of the probe: totals since the node started, and what holds at the moment.

    >>> parse("look 100.5\\tload 2.50\\tcpu 10 0 10 80 0\\tmem 1024 512").load
    2.5
    """

    uptime_s: float
    load: float | None = None
    jiffies: tuple[int, int] | None = None  # busy, all
    mem_total_kib: float | None = None
    mem_available_kib: float | None = None
    gpus: Mapping[int, Fields] = field(default_factory=dict)
    gpus_at_s: float | None = None  # by the node's uptime
    smi: str | None = None  # state of its process: R, S, D, Z, or ? if it is gone; None: no driver
    ports: Mapping[str, Fields] = field(default_factory=dict)
    links: Mapping[str, Fields] = field(default_factory=dict)
    odd: str = ""  # what nvidia-smi printed instead of numbers


@dataclass(frozen=True)
class Values:
    """A node's numbers at a moment, as they are stored and shown.

    `gpus`: power_w, util_pct, temp_c, clock_mhz, mem_mib, reasons (bits). `ports`, `links`:
    in_bytes_per_s, out_bytes_per_s. `counters`: totals by their name. `facts`: words and limits.
    """

    node: Mapping[str, float | None]
    gpus: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)
    ports: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by GPU, port, interface
    odd: str = ""


def parse(line: str) -> Sample:
    """A sample; ValueError for a line that is none."""
    records = [record.split(" ") for record in line.split("\t")]
    if len(records[0]) != 2 or records[0][0] != "look":
        raise ValueError(f"no look: {line[:80]!r}")
    of_kind: dict[str, list[list[str]]] = {}
    for kind, *words in records:
        of_kind.setdefault(kind, []).append(words)
    memory = of_kind.get("mem", [["?", "?"]])[0]
    smi = of_kind.get("smi", [[]])[0]
    return Sample(
        uptime_s=float(records[0][1]),
        load=number(of_kind.get("load", [["?"]])[0][0]),
        jiffies=_jiffies(of_kind.get("cpu", [[]])[0]),
        mem_total_kib=number(memory[0]),
        mem_available_kib=number(memory[-1]),
        gpus=_gpus(of_kind.get("gpu", [])),
        gpus_at_s=number(smi[1]) if len(smi) > 1 else None,
        smi=smi[0] if smi else None,
        ports=_named(of_kind.get("ib", []), PORT_FIELDS),
        links=_named(of_kind.get("eth", []), LINK_FIELDS),
        odd=" ".join(of_kind.get("odd", [[]])[0]),
    )


def number(text: str | None) -> float | None:
    """The number that a text is, None where it is none, or one below 0.

    >>> number("612.04"), number("[N/A]"), number("-1")
    (612.04, None, None)
    """
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e18 else None  # a comparison with NaN is false


def values(before: Sample | None, now: Sample, old_after_s: float) -> Values:
    """The numbers of a node; rates need the sample before, of the same start of the node.

    GPUs' numbers are unknown once nvidia-smi has printed none for `old_after_s`.
    """
    if before is not None and before.uptime_s >= now.uptime_s:
        before = None
    gpus_are_old = now.gpus_at_s is None or now.uptime_s - now.gpus_at_s > old_after_s
    available = now.mem_available_kib
    return Values(
        node={
            "load": now.load,
            "cpu_pct": _cpu_pct(before, now),
            "mem_available_mib": None if available is None else available / 1024,
        },
        gpus={i: _gpu(fields, gpus_are_old) for i, fields in now.gpus.items()},
        ports={
            name: _rates(before.ports.get(name) if before else None, fields, before, now, "words")
            for name, fields in now.ports.items()
        },
        links={
            name: _rates(before.links.get(name) if before else None, fields, before, now, "bytes")
            for name, fields in now.links.items()
        },
        counters=_counters(now),
        facts=_facts(now),
        odd=now.odd,
    )


def refused_field(odd: str) -> str | None:
    """The field that this driver's nvidia-smi does not know, by what it printed.

    >>> refused_field('Field "power.fast" is not a valid field to query.')
    'power.fast'
    """
    head, _, rest = odd.partition('Field "')
    name, _, tail = rest.partition('"')
    return name if not head and "not a valid field" in tail else None


def _gpus(records: Sequence[Sequence[str]]) -> dict[int, Fields]:
    found: dict[int, Fields] = {}
    for words in records:
        texts = " ".join(words).split(", ")
        if texts[0].isdigit():
            found[int(texts[0])] = {str(i): text for i, text in enumerate(texts)}
    return found


def with_names(sample: Sample, fields: Sequence[str]) -> Sample:
    """The sample with the GPUs' numbers under the names of the fields that were asked for."""
    named = {
        index: {name: texts.get(str(i), "?") for i, name in enumerate(fields)}
        for index, texts in sample.gpus.items()
    }
    return Sample(**{**vars(sample), "gpus": named})


def _named(records: Sequence[Sequence[str]], fields: Sequence[str]) -> dict[str, Fields]:
    return {
        name: dict(zip(fields, words, strict=True))
        for name, *words in records
        if len(words) == len(fields)
    }


def _jiffies(words: Sequence[str]) -> tuple[int, int] | None:
    """Of user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already."""
    found = [number(word) for word in words[:8]]
    if len(found) < 5 or None in found:
        return None
    known = [int(value or 0) for value in found]
    return sum(known) - known[3] - known[4], sum(known)


def _cpu_pct(before: Sample | None, now: Sample) -> float | None:
    if before is None or before.jiffies is None or now.jiffies is None:
        return None
    busy, every = (b - a for a, b in zip(before.jiffies, now.jiffies, strict=True))
    return 100 * busy / every if every > 0 and 0 <= busy <= every else None


def _gpu(fields: Fields, are_old: bool) -> dict[str, float | None]:
    reasons = fields.get("clocks_throttle_reasons.active", "")
    found = {
        "power_w": number(fields.get("power.draw")),
        "util_pct": number(fields.get("utilization.gpu")),
        "temp_c": number(fields.get("temperature.gpu")),
        "clock_mhz": number(fields.get("clocks.sm")),
        "mem_mib": number(fields.get("memory.used")),
        "reasons": _bits(reasons),
    }
    return dict.fromkeys(found) if are_old else found


def _bits(text: str) -> float | None:
    try:
        return float(int(text, 16) & 0xFFFF)
    except ValueError:
        return None


def _rates(
    then: Fields | None, now: Fields, before: Sample | None, after: Sample, unit: str
) -> dict[str, float | None]:
    size = WORD_BYTES if unit == "words" else 1
    return {
        f"{way}_bytes_per_s": _rate(
            number(then[f"{way}_{unit}"]) if then else None,
            number(now[f"{way}_{unit}"]),
            after.uptime_s - before.uptime_s if before else 0.0,
            size,
        )
        for way in ("in", "out")
    }


def _rate(then: float | None, now: float | None, seconds: float, size: int) -> float | None:
    if then is None or now is None or now < then or seconds <= 0 or now == SATURATED:
        return None
    return (now - then) * size / seconds


def _counters(now: Sample) -> dict[str, int]:
    found = {
        f"GPU {index} ecc_{kind}": number(fields.get(f"ecc.errors.{kind}.volatile.total"))
        for index, fields in now.gpus.items()
        for kind in ("corrected", "uncorrected")
    }
    for names in (now.ports, now.links):
        for name, fields in names.items():
            for counter, text in fields.items():
                if counter not in NOT_COUNTERS:
                    found[f"{name} {counter}"] = number(text)
    return {name: int(value) for name, value in found.items() if value is not None}


def _facts(now: Sample) -> dict[str, dict[str, str]]:
    node = {"uptime_s": f"{now.uptime_s:.0f}"}
    if now.mem_total_kib is not None:
        node["mem_total_mib"] = f"{now.mem_total_kib / 1024:.0f}"
    if now.smi is not None:
        node["nvidia_smi"] = now.smi
    facts = {"node": node}
    for index, fields in now.gpus.items():
        keys = (("name", "name"), ("power.limit", "power_limit_w"), ("memory.total", "mem_mib"))
        facts[f"GPU {index}"] = {key: fields[name] for name, key in keys if name in fields}
    for name, fields in (*now.ports.items(), *now.links.items()):
        words = ("state", "rate_gbps", "layer", "speed_mbps")
        facts[name] = {word: fields[word] for word in words if fields.get(word, "?") != "?"}
    return facts
