"""Uploads to W&B after a training's end, by the trainer's program where the run's folder is."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from soractl.cluster.node_python import python_on
from soractl.cluster.settings import Cluster
from soractl.files.changes import last_changes
from soractl.remote.nodes import Node
from soractl.remote.requests import Remote, Request
from trainer.run_dir import RunDir

DEADLINE_S = 3600.0
AGAIN_S = 60.0  # after a training that still ran, or a fault

Place = tuple[Node, str]  # the machine with the run's folder, and the folder


@dataclass
class Uploads:
    """Sends what rank 0 cannot send any more; while a training runs, it does that itself."""

    remote: Remote
    cluster: Cluster
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _settled: dict[RunDir, object] = field(default_factory=dict)
    _asked_s: dict[RunDir, float] = field(default_factory=dict)

    def send(self, run: RunDir, place: Place, *, at_last: bool = False) -> None:
        """Send what is new of a run; `at_last` also if it was asked a moment ago."""
        seen = last_changes(run.evaluation_results())
        if not seen or self._settled.get(run) == seen or not (at_last or self._is_due(run)):
            return
        self._asked_s[run] = self.clock()
        node, path = place
        argv = python_on(node, self.cluster, "-m", "trainer.upload", path)
        result = self.remote(node, Request(argv), DEADLINE_S)
        answer = _answer(result.stdout) if result.ok else None
        if answer is None:
            no_answer = f"what came is no answer: {result.stdout[-100:]!r}"
            reason = no_answer if result.ok else result.reason
            self.say(f"{run.name}: videos were not sent to W&B: {reason}")
            return
        if not answer.get("again"):
            self._settled[run] = seen
        if answer["sent"]:
            self.say(f"{run.name}: {answer['sent']} videos sent to W&B")
        elif at_last and answer.get("again"):  # nobody asks again
            self.say(f"{run.name}: no video was sent to W&B: {answer.get('why')}")

    def _is_due(self, run: RunDir) -> bool:
        asked_s = self._asked_s.get(run)
        return asked_s is None or self.clock() - asked_s >= AGAIN_S


def _answer(stdout: str) -> dict[str, Any] | None:
    """The object in the last line, if there is one; what came before is a shell's greeting."""
    try:
        answer = json.loads(stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return answer if isinstance(answer, dict) and "sent" in answer else None
