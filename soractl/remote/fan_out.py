"""The same work on many nodes at once, under one deadline; Ctrl-C returns what is there."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from soractl.errors import INTERRUPTED, Fault, FaultKind
from soractl.remote.deadline import Deadline, DeadlinePassed, no_end_within
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import OddAnswerError

SIGNALS_WAIT_S = 0.5  # one that comes just before a wait is only seen after it
GRACE_S = 1.0  # what the end of a thread may take beyond the deadline

K = TypeVar("K")
T = TypeVar("T")


def run_everywhere(
    nodes: Sequence[Node],
    request_for: Callable[[Node], Request],
    remote: Remote,
    *,
    deadline_s: float,
    on_result: Callable[[NodeResult], None] | None = None,
) -> list[NodeResult]:
    """Results of all nodes, asked at once, in their order; each to `on_result` as it comes.

    At Ctrl-C it returns what is there; the nodes that had not answered have the fault
    INTERRUPTED.
    """
    return everywhere(
        nodes,
        lambda node: remote(node, request_for(node), deadline_s),
        lambda node, fault: NodeResult(node, fault=fault, elapsed_s=deadline_s),
        deadline_s=deadline_s,
        on_result=on_result,
    )


def everywhere(
    nodes: Sequence[K],
    work: Callable[[K], T],
    without_answer: Callable[[K, Fault], T],
    *,
    deadline_s: float,
    on_result: Callable[[T], None] | None = None,
) -> list[T]:
    """Results of any work on all nodes (or runs) at once, as `run_everywhere` does.

    An answer that the work does not understand (`understood`) is a fault of its node.
    """
    answers: queue.SimpleQueue[tuple[int, T | BaseException]] = queue.SimpleQueue()

    def do(index: int, node: K) -> None:
        try:
            answers.put((index, _answer(node, work, without_answer)))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answers.put((index, error))

    results: dict[int, T] = {}
    missing = no_end_within(deadline_s)
    try:
        for index, node in enumerate(nodes):
            threading.Thread(target=do, args=(index, node), daemon=True).start()
        for index, result in _arriving(answers, len(nodes), Deadline(deadline_s + GRACE_S)):
            results[index] = result
            if on_result:
                on_result(result)
    except KeyboardInterrupt:
        missing = INTERRUPTED
    for index, node in enumerate(nodes):
        if index not in results:
            results[index] = without_answer(node, missing)
            if on_result:
                on_result(results[index])
    return [results[index] for index in range(len(nodes))]


def _answer(node: K, work: Callable[[K], T], without_answer: Callable[[K, Fault], T]) -> T:
    try:
        return work(node)
    except OddAnswerError as error:
        return without_answer(node, Fault(FaultKind.FAILED, str(error)))


def _arriving(
    answers: "queue.SimpleQueue[tuple[int, T | BaseException]]", count: int, deadline: Deadline
) -> Iterator[tuple[int, T]]:
    missing = count
    while missing:
        try:
            index, answer = answers.get(timeout=min(deadline.left(), SIGNALS_WAIT_S))
        except queue.Empty:
            continue
        except DeadlinePassed:
            return
        missing -= 1
        if isinstance(answer, BaseException):
            raise answer
        yield index, answer
