"""A run's processes on the nodes: find them, stop them, and look again."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from soractl.errors import Fault
from soractl.remote.fan_out import everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import sections

KILL_WAIT_S = 5.0  # how long a process may take to go after KILL
SCAN_S = 10.0
STOP_S = KILL_WAIT_S + 25  # without the grace: KILL, then until the driver has let go of them
ROUNDS = 3  # a process may have started others while it was being stopped
OWN_TOOLS = ("ssh", "sshd", "soractl", "sudo")

SCAN = r"""
export LC_ALL=C
cd /proc || exit 1
grep -azHsE '^(SORACTL_RUN_ID|RANK)=' [0-9]*/environ | tr '\0' '\n'
echo "=== environ 0"
stat -c '%n %U' [0-9]* 2>/dev/null
echo "=== owners 0"
read -r second 2>/dev/null < 2/comm
[ "$second" = kthreadd ] && kernel=2 || kernel=none
cat [0-9]*/stat 2>/dev/null | grep -v ") [A-Za-z] $kernel "
echo "=== stat 0"
grep -azHs '' [0-9]*/cmdline | tr '\0' '\n'
echo "=== cmdline 0"
echo "=== self $$"
"""

# Lists hold PID:START pairs: a number that was given to a new process is left alone.
STOP = (
    r"""
same() {
  { IFS= read -r line < "/proc/${1%:*}/stat"; } 2>/dev/null || return 1
  set -- "${1#*:}" ${line##*) }
  case $2 in Z|X) return 1 ;; esac
  [ "${21}" = "$1" ]
}
# Leaves in `left` which of these still live.
living() { left=; for one in $1; do same "$one" && left="$left $one"; done; [ -n "$left" ]; }
await() {
  turns=$1
  while living "$all" && [ "$turns" -gt 0 ]; do
    sleep 0.2
    turns=$((turns - 1))
  done
}
send() { for one in $2; do same "$one" && kill -s "$1" "${one%:*}" 2>/dev/null; done; }
send TERM "$first"
while living "$all" && [ "$grace" -gt 0 ]; do
  # torchrun ends by itself after its ranks, and launchers a moment after it, to note its exit
  # code; what stays on after that is told by nobody but us.
  living "$first $torchruns" || settle=$((settle - 1))
  [ "$settle" -eq 0 ] && living "$all" && send TERM "$left"
  sleep 0.2
  grace=$((grace - 1))
done
killed=$(set -- $left; echo $#)
# torchrun hears that it is stopped before it sees its ranks go, or it would blame one of them.
send TERM "$torchruns"
send KILL "$first"
await "$settle"
send KILL "$left"
await "$patience"
echo "=== killed $killed"
held() {
  for pid in $(timeout -k 1 3 nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>&1); do
    case " $all" in *" $pid:"*) echo "$pid" ;; esac
  done
}
holding=
# The driver lists a process, and counts its memory, for a moment after its end.
if command -v nvidia-smi > /dev/null; then
  for pause in 0.1 0.4 1 2 0; do
    holding=$(held)
    [ -z "$holding" ] && break
    sleep $pause
  done
fi
echo "$holding"
echo "=== holding 0"
"""
    + SCAN
)


@dataclass(frozen=True)
class Process:
    node: Node
    pid: int
    ppid: int
    sid: int
    user: str | None
    run_id: str | None
    rank: int | None
    command: str
    state: str  # one letter, as ps shows it; D waits in the kernel and cannot be killed
    started: int  # clock ticks after boot
    role: Literal["rank", "worker", "other"] = "other"

    @property
    def is_torchrun(self) -> bool:
        words = self.command.split()
        by_name = any(word.rpartition("/")[2] == "torchrun" for word in words[:2])
        return by_name or words[1:3] == ["-m", "torch.distributed.run"]


@dataclass(frozen=True)
class Selection:
    """Which processes: those of one run, of every run of mine, or those that match a pattern."""

    run_id: str | None = None
    pattern: str | None = None  # a regular expression on the command line; run ids do not matter
    sudo: bool = False  # other users' processes too


@dataclass(frozen=True)
class NodeProcesses:
    node: Node
    processes: tuple[Process, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True)
class StopResult:
    node: Node
    found: tuple[Process, ...] = ()
    killed: int = 0  # how many did not go by TERM
    survivors: tuple[Process, ...] = ()
    gpu_pids: tuple[int, ...] = ()  # gone, but the driver still counts their memory
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        return self.fault is None and not self.survivors and not self.gpu_pids


def find(
    nodes: Sequence[Node], remote: Remote, which: Selection, *, deadline_s: float
) -> list[NodeProcesses]:
    """The chosen processes on every node, in the order of `nodes`."""
    return everywhere(
        nodes,
        lambda node: _find_on(node, remote, which, deadline_s),
        lambda node, fault: NodeProcesses(node, fault=fault),
        deadline_s=deadline_s,
    )


def stop(
    nodes: Sequence[Node],
    remote: Remote,
    which: Selection,
    *,
    grace_s: float,
    on_result: Callable[[StopResult], None] | None = None,
) -> list[StopResult]:
    """Ends the chosen processes on every node and looks whether they are gone.

    TERM goes to `torchrun`, which passes it on to its ranks; KILL goes to all that is left
    after `grace_s` seconds.
    """
    return everywhere(
        nodes,
        lambda node: _stop_on(node, remote, which, grace_s),
        lambda node, fault: StopResult(node, fault=fault),
        deadline_s=SCAN_S + grace_s + ROUNDS * STOP_S,
        on_result=on_result,
    )


def parse(result: NodeResult) -> tuple[list[Process], int]:
    """All processes of a node that SCAN saw, and the process id of its own shell."""
    found = sections(result.stdout)
    environ: dict[int, dict[str, str]] = {}
    for pid, text in _by_pid(found["environ"][0], "environ"):
        name, _, value = text.partition("=")
        environ.setdefault(pid, {})[name] = value
    commands: dict[int, list[str]] = {}
    for pid, word in _by_pid(found["cmdline"][0], "cmdline"):
        commands.setdefault(pid, []).append(word)
    owners = dict(line.split(" ", 1) for line in found["owners"][0].splitlines())
    processes = []
    for line in found["stat"][0].splitlines():
        head, _, tail = line.rpartition(") ")
        fields = tail.split()
        if not head or len(fields) < 20 or fields[0] in "ZX":
            continue
        pid = int(head.split(" ", 1)[0])
        rank = environ.get(pid, {}).get("RANK", "")
        processes.append(
            Process(
                node=result.node,
                pid=pid,
                ppid=int(fields[1]),
                sid=int(fields[3]),
                user=owners.get(str(pid)),
                run_id=environ.get(pid, {}).get("SORACTL_RUN_ID"),
                rank=int(rank) if rank.isdigit() else None,
                command=" ".join(commands.get(pid, ())),
                state=fields[0],
                started=int(fields[19]),
            )
        )
    return processes, found["self"][1]


def select(processes: Iterable[Process], own_pid: int, which: Selection) -> list[Process]:
    """The processes meant by a selection, oldest first.

    Those that lead to our own shell on the node are never among them.
    """
    by_pid = {process.pid: process for process in processes}
    ours = _line_of(by_pid, own_pid)
    me = by_pid[own_pid].user if own_pid in by_pid else None
    there = [
        process
        for process in by_pid.values()
        if process.pid not in ours
        and own_pid not in _line_of(by_pid, process.pid)
        and (which.sudo or process.user == me)
    ]
    if which.pattern is not None:
        chosen = _matching(there, by_pid, which.pattern)
    else:
        chosen = _of_run(there, by_pid, which.run_id)
    chosen.sort(key=lambda process: (process.started, process.pid))
    return [replace(process, role=_role(process, by_pid)) for process in chosen]


def _of_run(
    there: Sequence[Process], by_pid: dict[int, Process], run_id: str | None
) -> list[Process]:
    def belongs(process: Process) -> bool:
        return process.run_id is not None and run_id in (None, process.run_id)

    sessions = {process.sid for process in there if belongs(process)}
    # A child that lost the variable is known by its session, where the run itself began that.
    sessions = {sid for sid in sessions if sid not in by_pid or belongs(by_pid[sid])}
    return [
        process
        for process in there
        if belongs(process) or (process.run_id is None and process.sid in sessions)
    ]


def _matching(there: Sequence[Process], by_pid: dict[int, Process], pattern: str) -> list[Process]:
    hits = {
        process.pid
        for process in there
        if re.search(pattern, process.command) and not _is_tool(process)
    }
    return [process for process in there if hits & set(_line_of(by_pid, process.pid))]


def _is_tool(process: Process) -> bool:
    words = process.command.split()[:2]
    return any(word.rpartition("/")[2].rstrip(":") in OWN_TOOLS for word in words)


def _role(process: Process, by_pid: dict[int, Process]) -> Literal["rank", "worker", "other"]:
    if process.rank is None:
        return "other"
    parent = by_pid.get(process.ppid)
    return "worker" if parent is not None and parent.rank == process.rank else "rank"


def _line_of(by_pid: dict[int, Process], pid: int) -> list[int]:
    """A process, its parent, and so on up."""
    line: list[int] = []
    while pid in by_pid and pid not in line:
        line.append(pid)
        pid = by_pid[pid].ppid
    return line


def _by_pid(text: str, name: str) -> list[tuple[int, str]]:
    # An argument may hold line breaks: what does not begin like an entry goes on with the last.
    entries = re.split(rf"^([0-9]+)/{name}:", text, flags=re.MULTILINE)
    return [
        (int(pid), value.rstrip("\n"))
        for pid, value in zip(entries[1::2], entries[2::2], strict=True)
    ]


def _shell(which: Selection, script: str) -> Request:
    sudo = ("sudo", "-n") if which.sudo else ()
    return Request((*sudo, "sh", "-s"), script)


def _find_on(node: Node, remote: Remote, which: Selection, deadline_s: float) -> NodeProcesses:
    result = remote(node, _shell(which, SCAN), deadline_s)
    if not result.ok:
        return NodeProcesses(node, fault=result.problem)
    processes, own_pid = parse(result)
    return NodeProcesses(node, tuple(select(processes, own_pid, which)))


def _stop_on(node: Node, remote: Remote, which: Selection, grace_s: float) -> StopResult:
    before = _find_on(node, remote, which, SCAN_S)
    outcome = StopResult(node, found=before.processes, fault=before.fault)
    remaining = before.processes
    newcomers = list(remaining)
    for _ in range(ROUNDS):
        if not newcomers:
            break
        request = _shell(which, _stop_script(remaining, grace_s))
        result = remote(node, request, grace_s + STOP_S)
        if not result.ok:
            return replace(outcome, fault=result.problem, survivors=remaining)
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
    # Ranks hear it from us: torchrun would kill them 30 s after it told them, amid a long save.
    first = ranks if torchruns and ranks else torchruns or processes
    return (
        f"all='{_pairs(processes)}'; first='{_pairs(first)}'; torchruns='{_pairs(torchruns)}'\n"
        f"settle=15; grace={round(grace_s * 5)}; patience={round(KILL_WAIT_S * 5)}\n"
        f"{STOP}"
    )


def _pairs(processes: Iterable[Process]) -> str:
    return " ".join(f"{p.pid}:{p.started}" for p in processes)
