"""`python -m tests.night.quiet [--minutes M]`: a healthy run, which nobody must touch.

Two nodes, supervised, with saves, validation and epoch changes; it is stopped and resumed on the
way. Any suspicion of its supervisor is a fault.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from soractl.runs.events import EventKind
from tests.night.faults import ENDS
from tests.night.stand import Stand
from trainer.data import smoke_clips

UNWELL = ENDS | {EventKind.SUSPECT, EventKind.BLIND, EventKind.KILLED, EventKind.RESTARTED}
SETTINGS = ("validation.every_steps=7", "validation.clips=2")


class QuietStand(Stand):
    """Two nodes, and a run that validates."""

    def settings(self) -> Sequence[str]:
        """Validation beside saves, on clips of its own."""
        return (*SETTINGS, f"data.path={smoke_clips.make(self.folder / 'data')}")


def be_quiet(stand: Stand, seconds: float) -> list[str]:
    """Train for so long, with a stop and a resume in the middle; what the supervisor did."""
    stand.launch(100_000)
    for attempt in (1, 2):
        stand.trains(attempt)
        time.sleep(seconds / 2)
        stand.soractl("stop")
        stand.wait(lambda: (holder := stand.holder()) and holder.ended)
        if attempt == 1:
            stand.soractl("resume", "latest", "--supervise", "--detach")
    kinds = [f"{event.kind}: {event.text}" for event in stand.events() if event.kind in UNWELL]
    epochs = max(found.manifest.epoch for found in stand.run.checkpoints())
    sys.stdout.write(f"{stand.newest()} steps, {epochs + 1} epochs, {len(kinds)} actions\n")
    return kinds if stand.newest() else ["no step was made"]


def main(argv: Sequence[str] | None = None) -> int:
    """Be quiet as long as the arguments say; 1 if anything was done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="quiet-") as name,
        QuietStand(Path(name), nodes=2) as stand,
    ):
        done = be_quiet(stand, 60 * options.minutes)
        sys.stdout.write("\n".join([*done, stand.soractl("events"), stand.soractl("report")]))
    return 1 if done else 0


if __name__ == "__main__":
    sys.exit(main())
