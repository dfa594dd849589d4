"""Checks of nodes as data: a field, a rule that judges it, a severity, a remedy. Pure."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, get_args

from soractl.health.facts import Facts

Context = Literal["launch", "idle", "prolog", "epilog", "periodic"]
CONTEXTS: tuple[Context, ...] = get_args(Context)
NO_JOB: tuple[Context, ...] = ("idle", "prolog", "epilog")  # nothing may use the node

# Where a verdict comes from: a fixed limit, what most of the fleet have, what this type of GPU
# has by its maker, or the other GPUs of the node.
Source = Literal["threshold", "fleet", "expected", "siblings"]

UNREADABLE = ("", "?", "N/A", "[N/A]", "Not Supported", "Unknown Error", "ERR!", "GPU is lost")


class Level(StrEnum):
    """Verdicts, the gravest first; `unknown` is neither good nor bad."""

    BAD = "BAD"
    WARNING = "warning"
    UNKNOWN = "unknown"
    GOOD = "good"


class Unreadable(Exception):
    """A value that a rule needs is not there."""


class Seen(NamedTuple):
    """A field of one thing on one node, and what it may be compared with."""

    value: str
    item: str
    fields: Mapping[str, str]
    facts: Facts
    most: str | None = None  # what most of the fleet have, or what was recorded of it
    basis: str = "most have"

    def also(self, name: str) -> str:
        """Another field of the same thing; Unreadable without it."""
        value = self.fields.get(name, "?")
        if value in UNREADABLE:
            raise Unreadable("not reported")
        return value


Values = Mapping[str, str | None]  # of a check's field, by name of the thing or under ''
Rule = Callable[[Seen], str]
"""A judge: the reason against a value, or '' where it is good; Unreadable where that is open."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    >>> check = Check(id="gpu.ecc_mode", of="gpu", field="ECC Mode/Current", title="ECC",
    ...               rule=equals("Enabled"), remedy="nvidia-smi -e 1, then restart the node")
    >>> [finding.level.value for finding in judge(check, Facts(missing={"gpu": "no answer"}), {})]
    ['unknown']
    """

    id: str
    of: str  # kind of thing, as the probe prints it; one that a node lacks is not judged
    field: str
    title: str  # '': the rule's reason is a sentence of its own
    rule: Rule
    remedy: str
    level: Level = Level.BAD  # of a value that is not good
    source: Source = "threshold"
    contexts: tuple[Context, ...] = CONTEXTS
    when: Rule | None = None  # not judged where this is ''
    by_name: bool = False  # the fleet is compared thing by thing of the same name


class Finding(NamedTuple):
    """Finding of one check about one thing of a node."""

    check: Check
    level: Level
    item: str = ""
    reason: str = ""


def judge(
    check: Check,
    facts: Facts,
    most: Values,
    recorded: Values | None = None,
    basis: str = "recorded was",
) -> Iterator[Finding]:
    """A finding for each thing; none where the node has no such thing.

    What was recorded of a thing comes before what most have.
    """
    if check.of in facts.missing:
        yield Finding(check, Level.UNKNOWN, reason=facts.missing[check.of])
    for item, fields in facts.of(check.of).items():
        value = fields.get(check.field, "?")
        name = item if check.by_name else ""
        seen = Seen(value, item, fields, facts, most.get(name))
        if recorded and name in recorded:
            seen = seen._replace(most=recorded[name], basis=basis)
        if (finding := _judge(check, seen)) is not None:
            yield finding


def _judge(check: Check, seen: Seen) -> Finding | None:
    try:
        if check.when and not check.when(seen):
            return None
        if seen.value in UNREADABLE:
            raise Unreadable("not reported")
        reason = check.rule(seen)
    except Unreadable as unreadable:
        return Finding(check, Level.UNKNOWN, seen.item, str(unreadable))
    if reason:
        sentence = f"{check.title}: {reason}" if check.title else reason
        return Finding(check, check.level, seen.item, sentence)
    return Finding(check, Level.GOOD, seen.item)


def majority(check: Check, fleet: Sequence[Facts]) -> dict[str, str | None]:
    """The value that more than half have, by name of the thing or under ''; None without one."""
    found: dict[str, Counter[str]] = {}
    for facts in fleet:
        for item, fields in facts.of(check.of).items():
            value = fields.get(check.field, "?")
            if value not in UNREADABLE:
                found.setdefault(item if check.by_name else "", Counter())[value] += 1
    return {name: _most(counts) for name, counts in found.items()}


def _most(counts: Counter[str]) -> str | None:
    [(value, count)] = counts.most_common(1)
    return value if count * 2 > counts.total() else None


def number(text: str) -> float:
    """The number at the start of a value with its unit; Unreadable without one.

    >>> number("700.00 W"), number("16x")
    (700.0, 16.0)
    """
    found = re.match(r"-?\d+(\.\d+)?", text)
    if not found:
        raise Unreadable(f"no number: {text[:40]}")
    return float(found[0])


def equals(*good: str) -> Rule:
    """One of the values that are good."""
    return lambda seen: "" if seen.value in good else f"{seen.value}, expected {' or '.join(good)}"


def at_most(limit: float) -> Rule:
    """No larger number."""
    return lambda seen: "" if number(seen.value) <= limit else f"{seen.value}, at most {limit:g}"


def at_least(limit: float) -> Rule:
    """No smaller number; `unlimited` is none."""

    def rule(seen: Seen) -> str:
        if seen.value == "unlimited" or number(seen.value) >= limit:
            return ""
        return f"{seen.value}, at least {limit:g}"

    return rule


def equals_field(name: str) -> Rule:
    """The same number as another field has."""

    def rule(seen: Seen) -> str:
        other = seen.also(name)
        return "" if number(seen.value) == number(other) else f"{seen.value} of {other}"

    return rule


def at_most_an_hour(limit: float, free: int = 0) -> Rule:
    """A counter that grew no faster, on average, since the kernel started; a start takes `free`."""

    def rule(seen: Seen) -> str:
        count = number(seen.value)
        hours = max(number(seen.facts.one("system", "uptime") or "?") / 3600, 1.0)
        rate = (count - free) / hours
        if rate <= limit:
            return ""
        return f"{seen.value} in {hours:.0f} h, which is {rate:.3g} an hour, at most {limit:g}"

    return rule


def same(seen: Seen) -> str:
    """The value that most of the fleet have."""
    if seen.most is None:
        raise Unreadable("nodes differ, and no value has a majority")
    return "" if seen.value == seen.most else f"{seen.value}, {seen.basis} {seen.most}"


def alike(seen: Seen) -> str:
    """The same as on the other nodes; where no value has a majority, all of them are wrong."""
    if seen.most is None:
        return f"{seen.value}, and nodes differ"
    return same(seen)


def near_most(percent: float) -> Rule:
    """A number close to the one that most of the fleet have."""

    def rule(seen: Seen) -> str:
        if seen.most is None:
            raise Unreadable("nodes differ, and no value has a majority")
        wanted = number(seen.most)
        is_near = abs(number(seen.value) - wanted) <= wanted * percent / 100
        return "" if is_near else f"{seen.value}, {seen.basis} {seen.most}"

    return rule


def no_message(pattern: str) -> Rule:
    """No line of the kernel that matches; the last one is the reason."""
    compiled = re.compile(pattern)

    def rule(seen: Seen) -> str:
        lines = [line for line in seen.value.splitlines() if compiled.search(line)]
        if not lines:
            return ""
        return f"{lines[-1].strip()[:160]} ({len(lines)} such)" if lines[1:] else lines[0][:160]

    return rule


def has(kind: str) -> Rule:
    """A condition: the node has things of a kind."""
    return lambda seen: "yes" if seen.facts.of(kind) else ""


def field_is(name: str, *values: str) -> Rule:
    """A condition: another field of the thing has one of the values."""
    return lambda seen: "yes" if seen.fields.get(name) in values else ""
