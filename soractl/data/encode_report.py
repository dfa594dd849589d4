"""Lines and JSON of `data encode`: the size of the features, and the result."""

from collections.abc import Mapping
from typing import Any

from soractl.data.encode import Encoded, EncodePlan
from soractl.data.report import MOST_CLIPS, MOST_REASONS, printable
from soractl.terminal import text
from soractl.terminal.table import Table

ONE_OF = {"text": "caption", "video": "clip"}
AGAIN = "the same command continues with what is left"


def size_lines(plan: EncodePlan) -> list[str | Table]:
    """A row for each kind of features, and the bytes to write beside the free ones."""
    rows = [
        (f"{ONE_OF[one.kind]}s", one.clips, one.variants, text.size(one.bytes), one.done_clips)
        for one in plan.estimates
    ]
    where = f"{plan.options.out} has {text.size(plan.free_bytes)} free"
    ranks = f"{text.count(plan.ranks, 'rank')} on {text.count(len(plan.requests), 'node')}"
    return [
        Table(("FEATURES", "NUMBER", "VARIANTS", "SIZE", "DONE"), rows),
        f"about {text.size(plan.bytes_left)} to write by {ranks}; {where}",
    ]


def size_json(plan: EncodePlan) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": str(plan.options.out),
        "nodes": plan.origin,
        "ranks": plan.ranks,
        "parts": [vars(estimate) for estimate in plan.estimates],
        "bytes_left": plan.bytes_left,
        "free_bytes": plan.free_bytes,
    }


def lines(encoded: Encoded) -> list[str]:
    """The features and the clips that failed with their reasons; or the nodes that failed."""
    if encoded.interrupted:
        return [f"interrupted; {AGAIN}"]
    if encoded.faults:
        failed = [f"{node} was given up: {fault}" for node, fault in encoded.faults.items()]
        return [*failed, f"not everything is encoded; {AGAIN}"]
    took, out = text.duration(encoded.seconds), encoded.plan.options.out
    return [
        *(line for part in encoded.parts for line in _failures(part)),
        *map(_counts, encoded.parts),
        f"after {took}; to train on them: --set data.features={out}",
    ]


def as_json(encoded: Encoded) -> dict[str, Any]:
    """The same values for programs."""
    return {
        "out": str(encoded.plan.options.out),
        "seconds": round(encoded.seconds, 1),
        "parts": [dict(part) for part in encoded.parts],
        "faults": {node: str(fault) for node, fault in encoded.faults.items()},
        "interrupted": encoded.interrupted,
    }


def _failures(part: Mapping[str, Any]) -> list[str]:
    """The most frequent reasons of failed clips, and the first of these clips."""
    reasons = list(part["reasons"].items())[:MOST_REASONS]
    clips = part["failed_clips"]
    return [
        *(f"{count} {reason}" for reason, count in reasons),
        *(f"  {printable(clip['path'])}: {clip['reason']}" for clip in clips[:MOST_CLIPS]),
        *([f"  and others in {part['path']}/index.json"] if len(clips) > MOST_CLIPS else []),
    ]


def _counts(part: Mapping[str, Any]) -> str:
    encoded = text.count(part["clips"], ONE_OF[part["kind"]])
    return f"{encoded} encoded, {part['failed']} failed, {text.size(part['bytes'])}: {part['path']}"
