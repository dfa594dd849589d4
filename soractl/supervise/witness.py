"""Witnesses of a hang, asked once no step comes any more: ranks, NCCL's RAS, GPUs' power."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from soractl.diagnosis.culprit import VerdictKind
from soractl.diagnosis.evidence import ask_ras, collect
from soractl.diagnosis.flight_recorder import Look, look
from soractl.diagnosis.power import ask_power
from soractl.diagnosis.second_sign import (
    PowerSample,
    RasReport,
    frozen,
    power_flat,
    ras_frozen,
)
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


@dataclass(frozen=True)
class Answers:
    """Answers of all witnesses at one time."""

    look: Look
    power: tuple[PowerSample, ...] = ()  # of no GPU: there is none
    ras: RasReport | None = None


def ask_all(attempt: AttemptDir, record: AttemptRecord, remote: Remote) -> Answers:
    """Ask all witnesses at the same time; where there are no GPUs only the ranks answer."""
    now_s = time.monotonic()
    with ThreadPoolExecutor(2, "witness") as pool:
        power = pool.submit(ask_power, record.nodes, remote)
        ras = pool.submit(ask_ras, record.nodes, remote)
        seen = look(attempt, record, remote)
        report = ras.result()[1]
        return Answers(seen, power.result(), (now_s, report) if report else None)


class Witness:
    """Looks at what witnesses say, in a thread of its own, while no step comes."""

    def __init__(self, ask: Callable[[], Answers]) -> None:
        self._ask_all = ask
        self._answers: deque[Answers] = deque(maxlen=KEPT_LOOKS)
        self._asking: Future[Answers] | None = None
        self._asked_s = 0.0

    def sign(self, without_step_s: float | None) -> str:
        """Sign such as `collectives stand still`, once it was seen for long enough."""
        if without_step_s is None or without_step_s < BEGINS_S:
            self._answers.clear()
            self._asking = None  # an answer that is under way is of before the step
            return ""
        self._take_in()
        now_s = time.monotonic()
        if self._asking is None and now_s - self._asked_s >= EVERY_S:
            self._asking, self._asked_s = Future(), now_s
            threading.Thread(target=self._ask, args=(self._asking,), daemon=True).start()
        return signs(list(self._answers))

    def _take_in(self) -> None:
        if self._asking is not None and self._asking.done():
            asked, self._asking = self._asking, None
            self._answers.append(asked.result())

    def _ask(self, answer: "Future[Answers]") -> None:
        try:
            answer.set_result(self._ask_all())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answer.set_exception(error)


def signs(answers: list[Answers]) -> str:
    """The signs of all witnesses; none while collectives go on, whatever the others say."""
    stands = frozen([one.look for one in answers]) if answers else None
    if stands is False:
        return ""
    seen = {
        "collectives stand still": stands,
        "NCCL's counts stand still": ras_frozen([one.ras for one in answers if one.ras]),
        "the GPUs' power is flat and low": power_flat([s for one in answers for s in one.power]),
    }
    return ", ".join(words for words, is_so in seen.items() if is_so)


def evidence_of(run: RunDir, watcher: Watcher, remote: Remote, verdict: Verdict) -> Found:
    """Evidence of a hung attempt, and whom its ranks wait for; of other failures nothing."""
    if verdict.state is not State.HUNG:
        return Found()
    try:
        taken = collect(run, watcher.attempt, watcher.record, remote)
    except OSError as error:  # a full disk
        return Found(text=f"no evidence: {error}")
    found = taken.verdict
    # ranks of several nodes: none of these is the one to blame
    node = found.nodes[0] if found.names_somebody and len(set(found.nodes)) == 1 else None
    moves = found.kind is VerdictKind.MOVING
    return Found(str(taken.folder.relative_to(run.path)), str(found), node, moves)
