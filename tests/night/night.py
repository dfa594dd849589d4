"""`python -m tests.night.night [--seed N] [--faults K]`: a supervised run that faults break.

Three nodes of tests/cluster, the smoke model, one rank a node. Faults are drawn by the seed; each
comes while the run trains. After each one its events must tell of it, and `why` must name it, or
say that it does not know. In the end the planned step must be reached with exit code 0, every clip
of an epoch be trained on once by the trainer's own ledger, and the report add up to the wall time.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soractl.runs.events import Event, EventKind
from tests.night import ledger
from tests.night.faults import ENDS, FAULTS, Fault, draw, steps_during
from tests.night.stand import FragileStand

RIGHT, UNKNOWN, WRONG = "right", "unknown", "WRONG"
WALL_SHARE = 0.01
STORY_S = 60.0  # within which the events tell all of a fault
COLUMNS = "{:28} {:4} {:>5}  {:8} {:>7} {:>8}  {:8} {}"
HEADER = COLUMNS.format("FAULT", "NODE", "STEP", "VERDICT", "SEEN", "TRAINED", "WHY", "ITS WORDS")


@dataclass(frozen=True)
class Suffered:
    """One fault, and what came of it."""

    fault: Fault
    node: int
    step: int
    seen_s: float | None  # from the fault to the verdict
    trained_s: float  # until the run trained again
    why: str
    words: str
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        """A row of the table."""
        seen = "-" if self.seen_s is None else f"{self.seen_s:.0f} s"
        verdict = str(self.fault.verdict or "-")
        row = (self.fault.name, f"n{self.node}", self.step, verdict, seen)
        return COLUMNS.format(*row, f"{self.trained_s:.0f} s", self.why, self.words)


def suffer(stand: FragileStand, fault: Fault, preferred: int) -> Suffered:
    """One fault on a node of the run, until the run trains again."""
    attempt, step = stand.step()
    known, began = len(stand.events()), time.monotonic()
    number = preferred if preferred in stand.nodes() else stand.nodes()[-1]

    def since() -> list[Event]:
        return stand.events()[known:]

    fault.inject(stand, number)
    seen_s = None
    if fault.verdict:
        stand.wait(lambda: ENDS & {event.kind for event in since()})
        seen_s = time.monotonic() - began
        stand.wait(lambda: EventKind.KILLED in {event.kind for event in since()})
    time.sleep(fault.lasts_s)
    fault.heal(stand, number)
    stand.trains(attempt + fault.attempts if fault.verdict else attempt)
    trained_s = time.monotonic() - began
    why, words = judge(fault, number, attempt, stand.json("why"))
    with suppress(AssertionError):  # an event is written when the nodes have been looked at
        stand.wait(lambda: not misses(fault, number, since(), is_known=why == RIGHT), STORY_S)
    wrong = [] if why != WRONG else [f"`why`: {words}"]
    wrong += misses(fault, number, since(), is_known=why == RIGHT)
    return Suffered(fault, number, step, seen_s, trained_s, why, words, tuple(wrong))


def misses(
    fault: Fault, number: int, events: Sequence[Event], *, is_known: bool = True
) -> list[str]:
    """What the events of a fault do not tell, or tell wrongly.

    Where the cause is unknown, they need not name the node either.
    """
    acted = [event.kind for event in events if event.kind in ENDS | {"killed", "restarted"}]
    expected = [str(fault.verdict), "killed", "restarted"] * fault.attempts if fault.verdict else []
    if fault.attempts > 1:  # what the second verdict is follows from the first
        acted = [kind if kind not in ENDS else str(fault.verdict) for kind in acted]
    found = (
        [] if acted == expected else [f"events {acted or 'none'}, expected {expected or 'none'}"]
    )
    named = {(event.kind, event.node) for event in events}
    story = fault.story if is_known else ()
    lacking = [kind for kind in story if (kind, f"n{number}") not in named]
    found += [f"no event `{kind}` names n{number}" for kind in lacking]
    kinds = {event.kind for event in events}
    return found + [f"no event `{kind}`" for kind in fault.others if kind not in kinds]


def judge(fault: Fault, number: int, attempt: int, found: Any) -> tuple[str, str]:
    """Right, unknown or wrong, and what `why` says of the newest failure."""
    explained = found["explanation"]
    if fault.verdict is None:  # it may explain an earlier attempt, never this one
        is_earlier = explained is None or found["attempt"] < attempt
        words = "nothing has failed" if is_earlier else explained["cause"]
        return (RIGHT, words) if is_earlier else (WRONG, words)
    if explained is None:
        return WRONG, "nothing has failed"
    root = explained["root"] or {}
    words = f"{explained['cause']} ({root.get('node')}): {root.get('text', '')}"[:150]
    if explained["certainty"] == "unknown":
        return UNKNOWN, words
    is_there = fault.attempts > 1 or root.get("node") == f"n{number}"
    is_cause = re.search(fault.cause, words) is not None
    is_it = attempt <= found["attempt"] < attempt + fault.attempts
    return (RIGHT if is_there and is_cause and is_it else WRONG), words


def spend(drawn: Sequence[tuple[Fault, int]], say: Callable[[str], None]) -> list[str]:
    """A night with these faults on these nodes: everything that was wrong with it."""
    planned = steps_during([fault for fault, _ in drawn]) + 10
    suffered: list[Suffered] = []
    with tempfile.TemporaryDirectory(prefix="night-") as name, FragileStand(Path(name)) as stand:
        stand.launch(planned)
        began = time.monotonic(), time.time()
        try:
            stand.trains(1)
            for fault, number in drawn:
                suffered.append(suffer(stand, fault, number))
                say(f"{suffered[-1].fault.name}: " + ("; ".join(suffered[-1].wrong) or "well"))
            stand.hurry()
            stand.wait(lambda: (holder := stand.holder()) and holder.ended, 1200)
            wrong = end_faults(stand, planned, *began)
        except AssertionError as error:
            wrong = [str(error)]
        with suppress(AssertionError):
            say(stand.soractl("report"))
            say(stand.soractl("events"))
    say("\n".join([HEADER, *map(str, suffered)]))
    singles = [one for one in suffered if one.fault.verdict]
    right = sum(one.why == RIGHT for one in singles)
    say(f"`why`: {right} of {len(singles)} failures right")
    return [f"{one.fault.name}: {what}" for one in suffered for what in one.wrong] + wrong


def end_faults(stand: FragileStand, planned: int, began_s: float, began_unix_s: float) -> list[str]:
    """What is wrong with a run that has ended."""
    run, holder = stand.run, stand.holder()
    found = []
    if holder is None or holder.state != "finished":
        found.append(f"the supervisor left: {holder}")
    exit_code = json.loads(stand.attempt().exit.read_text())["exit_code"]
    if exit_code:
        found.append(f"exit code {exit_code}")
    steps = [json.loads(line)["global_step"] for line in run.metrics.read_text().splitlines()]
    if steps != list(range(1, planned + 1)):
        found.append(f"steps of metrics.jsonl: {steps}")
    if (newest := run.checkpoints()[-1].manifest.global_step) != planned:
        found.append(f"the newest checkpoint is of step {newest}")
    found += ledger.faults_in(run, planned)
    report = stand.json("report")
    own_s = time.monotonic() - began_s + began_unix_s - report["begin_unix_s"]
    own_s -= time.time() - report["end_unix_s"]
    for name, seconds in (("parts", sum(report["seconds"].values())), ("wall time", own_s)):
        if abs(seconds - report["wall_s"]) > WALL_SHARE * report["wall_s"]:
            found.append(
                f"{name}: {seconds:.1f} s, the report's wall time {report['wall_s']:.1f} s"
            )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Spend a night as the arguments say; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--only", action="append", choices=[fault.name for fault in FAULTS])
    options = parser.parse_args(argv)
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.0f} s  {text}\n")
        sys.stdout.flush()

    drawn = draw(options.seed, options.faults)
    if options.only:
        drawn = [(fault, fault.on[-1]) for fault in FAULTS if fault.name in options.only]
    say(f"seed {options.seed}: " + ", ".join(f"{fault.name} (n{n})" for fault, n in drawn))
    wrong = spend(drawn, say)
    say("\n".join(["went wrong:", *wrong]) if wrong else "all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
