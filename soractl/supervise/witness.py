"""Second witness of a hang: the ranks' own collectives, asked for once no step comes any more."""

import threading
import time
from collections import deque
from concurrent.futures import Future

from soractl.diagnosis.evidence import collect
from soractl.diagnosis.flight_recorder import Look, look
from soractl.diagnosis.second_sign import frozen
from soractl.remote.requests import Remote
from soractl.runs.record import AttemptRecord
from soractl.supervise.observe import Verdict
from soractl.supervise.states import State
from soractl.supervise.supervisor import Found
from soractl.supervise.watch import Watcher
from trainer.run_dir import AttemptDir, RunDir

BEGINS_S = 5.0  # without a step; a running training is not asked
EVERY_S = 5.0
KEPT_LOOKS = 12


class Witness:
    """Short looks at the ranks' collectives, in a thread of its own, while no step comes."""

    def __init__(self, attempt: AttemptDir, record: AttemptRecord, remote: Remote) -> None:
        self._attempt, self._record, self._remote = attempt, record, remote
        self._looks: deque[Look] = deque(maxlen=KEPT_LOOKS)
        self._asking: Future[Look] | None = None
        self._asked_s = 0.0

    def sign(self, without_step_s: float | None) -> str:
        """`collectives stand still`, once that was seen for long enough; else nothing."""
        if without_step_s is None or without_step_s < BEGINS_S:
            self._looks.clear()
            return ""
        self._take_in()
        now_s = time.monotonic()
        if self._asking is None and now_s - self._asked_s >= EVERY_S:
            self._asking, self._asked_s = Future(), now_s
            threading.Thread(target=self._ask, args=(self._asking,), daemon=True).start()
        stands = bool(self._looks) and frozen(list(self._looks))
        return "collectives stand still" if stands else ""

    def _take_in(self) -> None:
        if self._asking is not None and self._asking.done():
            self._looks.append(self._asking.result())
            self._asking = None

    def _ask(self, answer: "Future[Look]") -> None:
        try:
            answer.set_result(look(self._attempt, self._record, self._remote))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answer.set_exception(error)


def evidence_of(run: RunDir, watcher: Watcher, remote: Remote, verdict: Verdict) -> Found:
    """Evidence of a hung attempt, and whom its ranks wait for; of other failures nothing."""
    if verdict.state is not State.HUNG:
        return Found()
    try:
        taken = collect(run, watcher.attempt, watcher.record, remote)
    except OSError as error:  # a full disk
        return Found(text=f"no evidence: {error}")
    found = taken.verdict
    node = found.nodes[0] if found.names_somebody and found.nodes else None
    return Found(str(taken.folder.relative_to(run.path)), str(found), node)
