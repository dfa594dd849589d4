"""Processes of runs on the nodes, stopped: TERM, KILL, and a second scan."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from soractl.errors import Fault
from soractl.processes.scan import SCAN, find_on, parse, shell
from soractl.processes.selection import Process, Selection, select
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import Remote
from soractl.remote.scripts import script, sections, understood

KILL_WAIT_S = 5.0  # how long a process may take to go after KILL
SCAN_S = 10.0
STOP_S = KILL_WAIT_S + 25  # without the grace: KILL, then until the driver has let go of them
ROUNDS = 3  # a process may have started others while it was being stopped

STOP = script("soractl.processes", "stop.sh")


@dataclass(frozen=True)
class StopResult:
    """Result of stopping the selected processes of one node."""

    node: Node
    found: tuple[Process, ...] = ()
    killed: int = 0  # how many did not go by TERM
    survivors: tuple[Process, ...] = ()
    gpu_pids: tuple[int, ...] = ()  # gone, but the driver still counts their memory
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        """All are gone, and so is their GPU memory."""
        return self.fault is None and not self.survivors and not self.gpu_pids


def stop(
    nodes: Sequence[Node],
    remote: Remote,
    which: Selection,
    *,
    grace_s: float,
    on_result: Callable[[StopResult], None] | None = None,
) -> list[StopResult]:
    """End the selected processes on every node, then scan again.

    TERM goes to `torchrun`, which passes it on to its ranks; KILL goes to all that is left
    after `grace_s` seconds.
    """
    asked: dict[Node, StopResult] = {}
    return everywhere(
        nodes,
        lambda node: _stop_on(node, remote, which, grace_s, asked),
        lambda node, fault: replace(asked.get(node) or StopResult(node), fault=fault),
        deadline_s=SCAN_S + grace_s + ROUNDS * STOP_S,
        on_result=on_result,
    )


def _stop_on(
    node: Node, remote: Remote, which: Selection, grace_s: float, asked: dict[Node, StopResult]
) -> StopResult:
    """Stops a node's processes; `asked` gets those that TERM was sent to."""
    before = find_on(node, remote, which, SCAN_S)
    outcome = StopResult(node, found=before.processes, fault=before.fault)
    remaining = before.processes
    newcomers = list(remaining)
    for _ in range(ROUNDS):
        if not newcomers:
            break
        request = shell(which, _stop_script(remaining, grace_s))
        asked[node] = replace(outcome, survivors=remaining)
        result = remote(node, request, grace_s + STOP_S)
        if not result.ok:
            return replace(outcome, fault=result.problem, survivors=remaining)
        with understood():
            remaining = tuple(select(*parse(result), which))
            known = {(process.pid, process.started) for process in outcome.found}
            newcomers = [p for p in remaining if (p.pid, p.started) not in known]
            found = sections(result.stdout)
            outcome = replace(
                outcome,
                found=(*outcome.found, *newcomers),
                killed=outcome.killed + found["killed"][1],
                survivors=remaining,
                gpu_pids=tuple(int(pid) for pid in found["holding"][0].split()),
            )
        grace_s = 0
    return outcome


def _stop_script(processes: Sequence[Process], grace_s: float) -> str:
    ranks = [p for p in processes if p.role == "rank"]
    torchruns = [p for p in processes if p.is_torchrun]
    # Ranks get TERM from us: torchrun would kill them 30 s after its own, amid a long save.
    first = ranks if torchruns and ranks else torchruns or processes
    return (
        f"all='{_pairs(processes)}'; first='{_pairs(first)}'; torchruns='{_pairs(torchruns)}'\n"
        f"settle=15; grace={round(grace_s * 5)}; patience={round(KILL_WAIT_S * 5)}\n"
        f"{STOP}{SCAN}"
    )


def _pairs(processes: Iterable[Process]) -> str:
    return " ".join(f"{p.pid}:{p.started}" for p in processes)
