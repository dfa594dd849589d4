"""Slurm's programs, asked on this machine; their refusals become sentences with a hint."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from soractl.errors import ExitCode, SoractlError
from soractl.queue import slurm_allocation, slurm_script
from soractl.queue.interface import Allocation, Job
from soractl.queue.shared_answers import SharedAnswers, answers_file
from soractl.queue.slurm_answers import (
    FIELDS,
    NODE_FIELDS,
    SlurmEntry,
    SlurmNode,
    parse_all,
    parse_sinfo,
    parse_squeue,
)
from soractl.remote.nodes import this_machine
from soractl.remote.requests import NodeResult, Remote, Request

DEADLINE_S = 30.0
ASK_EVERY_S = 30.0  # SchedMD asks not to poll the controller
ASK_AT_LEAST_EVERY_S = 300.0
ENDED_BY_SLURM = (143, 137)  # TERM, KILL
KILL_WAIT_S = 30.0  # Slurm's default
EXPEDITES = "enable_expedited_requeue"  # in SlurmctldParameters, of 25.11 and later
HINTS = {
    "Invalid partition": "`sinfo -s` lists the partitions; [slurm] partition in the cluster's file",
    "Invalid account": "`sacctmgr show associations user=$USER` lists yours; [slurm] account",
    "Invalid qos": "`sacctmgr show qos` lists them; [slurm] qos in the cluster's file",
    "Node count specification invalid": "the partition has fewer nodes; [slurm] nodes",
    "Requested node configuration is not available": "`sinfo -o '%P %D %G'` shows what nodes have;"
    " [slurm] nodes and gpus_per_node",
    "Invalid feature": "`sinfo -o '%P %f'` shows the features of nodes; [slurm] lines",
    "Invalid generic resource": "`sinfo -o '%P %G'` shows the GPUs of nodes; [slurm] gpus_per_node",
    "Requested time limit is invalid": "`sinfo -o '%P %l'` shows the limits; [slurm] time",
    "Munge": "`munge -n | unmunge` shows whether munge runs and clocks agree; on each machine",
    "Protocol authentication error": "`munge -n | unmunge` shows whether munge runs here",
    "Zero Bytes were transmitted": "the controller takes no credential of this machine: their"
    " clocks or munge's keys differ; `munge -n | ssh CONTROLLER unmunge` says which",
    "I/O error writing script": "the disk of Slurm's controller is full (StateSaveLocation): its"
    " administrators can help",
    "Unable to contact slurm controller": "`scontrol ping` asks the controller",
    "Parsing error": "a key in slurm.conf is not known to this version of Slurm",
    "Unable to process configuration file": "slurm.conf cannot be read; SLURM_CONF names its place",
    "Invalid job id": "`squeue --me` lists your jobs",
}


@dataclass(frozen=True)
class _Asked:
    """An answer about one job, and how long it holds."""

    at_s: float
    for_s: float
    entry: SlurmEntry | None


@dataclass
class Slurm:
    """Slurm, as `interface.Queue` asks it."""

    title: ClassVar[str] = "Slurm"

    remote: Remote
    clock: Callable[[], float] = time.monotonic
    answers: SharedAnswers | None = None
    _asked: "dict[int, _Asked]" = field(default_factory=dict)
    _settings: str = ""

    @classmethod
    def shared(cls, remote: Remote, environ: Mapping[str, str]) -> "Slurm":
        """One that shares what it asks with the user's other commands."""
        return cls(remote, answers=SharedAnswers(answers_file(environ), ASK_EVERY_S))

    @staticmethod
    def allocation(environ: Mapping[str, str]) -> Allocation | None:
        """The nodes of the job that this process runs in."""
        return slurm_allocation.allocation(environ)

    @staticmethod
    def on_all_nodes(nodes: Sequence[str], attempt: Path, run_id: str, home: str) -> Sequence[str]:
        """The command that runs an attempt's script of each node."""
        return slurm_script.on_all_nodes(nodes, attempt, run_id, home)

    @staticmethod
    def on_one_node(node: str, program: Sequence[str]) -> Sequence[str]:
        """The command that runs a program of ours on one node of the job."""
        return slurm_script.on_one_node(node, program)

    def script(self, job: Job) -> str:
        """The script that `sbatch` takes; expedited where this Slurm allows it, else it refuses."""
        expedite = job.expedite and EXPEDITES in self._setting("SlurmctldParameters")
        return slurm_script.sbatch_text(replace(job, expedite=expedite))

    def check(self, script: str) -> str:
        """Slurm's own forecast for a script, by `sbatch --test-only`."""
        result = self._run("sbatch", "--test-only", stdin=script)
        return _last_line(result.stderr).removeprefix("sbatch: ")

    def submit(self, script: str, *, behind_its_name: bool = False) -> int:
        """The id of a new job; `behind_its_name`: it begins when earlier ones of it have ended."""
        behind = ("--dependency=singleton",) if behind_its_name else ()
        result = self._run("sbatch", "--parsable", *behind, stdin=script)
        return int(_last_line(result.stdout).partition(";")[0])

    def may_requeue(self, job_id: int) -> bool:
        """True if a job may go back into the queue; the cluster may have forbidden it."""
        return " Requeue=0 " not in self._shown(job_id)

    def holds_failed(self, job_id: int) -> bool:
        """True if a job that fails is held in the queue: an expedited one, by a healthy epilog."""
        return "ExpeditedRequeue=Yes" in self._shown(job_id)

    def _shown(self, job_id: int) -> str:
        return self._run("scontrol", "--oneliner", "show", "job", str(job_id)).stdout

    def kill_wait_s(self) -> float:
        """Seconds from TERM to KILL; Slurm's default where it does not answer."""
        found = re.match(r"\d+", self._setting("KillWait"))
        return float(found[0]) if found else KILL_WAIT_S

    def _setting(self, name: str) -> str:
        """A setting of slurm.conf; '' where Slurm does not answer or does not know it."""
        if not self._settings and (answer := self._ask("scontrol", "show", "config")).ok:
            self._settings = answer.stdout
        found = re.search(rf"^{name}\s*=\s*(.*)$", self._settings, re.M)
        return found[1] if found else ""

    def entry(self, job_id: int) -> SlurmEntry | None:
        """A job in the queue, asked for at most once in 30 s; None: it has left the queue.

        While Slurm does not answer, the last answer holds, and it is asked ever more seldom.
        """
        last = self._asked.get(job_id)
        if last and self.clock() - last.at_s < last.for_s:
            return last.entry
        try:
            found = _Asked(self.clock(), ASK_EVERY_S, self._look_up(job_id))
        except SoractlError:
            if last is None:
                raise
            found = _Asked(self.clock(), min(2 * last.for_s, ASK_AT_LEAST_EVERY_S), last.entry)
        self._asked[job_id] = found
        return found.entry

    def _look_up(self, job_id: int) -> SlurmEntry | None:
        if self.answers:
            mine = ("squeue", "--noheader", "--me", "--states=all", f"--format={FIELDS}")
            text = self.answers.get(lambda: self._run(*mine).stdout)
            if found := next((one for one in parse_all(text) if one.job_id == job_id), None):
                return found
        return self.entry_now(job_id)  # submitted since, or another user's

    def entry_now(self, job_id: int) -> SlurmEntry | None:
        """The same, asked for now."""
        argv = ("squeue", "--noheader", f"--jobs={job_id}", "--states=all", f"--format={FIELDS}")
        result = self._ask(*argv)
        if not result.ok and "Invalid job id" in result.stderr:
            return None
        return parse_squeue(_answer(result).stdout)

    def signal(self, job_id: int, signal: str) -> None:
        """Send a signal to a job's batch shell alone."""
        self._run("scancel", "--batch", f"--signal={signal}", str(job_id))

    def cancel(self, job_id: int) -> None:
        """End a job, waiting or not."""
        self._run("scancel", str(job_id))

    def cancel_waiting(self, run: Path) -> None:
        """Take all jobs of a run that have not begun out of the queue, by their name."""
        self._run("scancel", "--state=PENDING", f"--name={slurm_script.job_name(run)}")

    def requeue(self, job_id: int) -> None:
        """Put a job back into the queue; from inside, this ends the whole job, scontrol too."""
        result = self._ask("scontrol", "requeue", str(job_id))
        if result.exit_code not in ENDED_BY_SLURM:
            _answer(result)

    def nodes(self, partition: str) -> list[SlurmNode]:
        """The nodes of a partition; none where there is no such partition."""
        argv = ("sinfo", "--noheader", "--Node", f"--partition={partition}")
        return parse_sinfo(self._run(*argv, f"--format={NODE_FIELDS}").stdout)

    def drained_nodes(self) -> list[SlurmNode]:
        """All nodes that take no jobs."""
        argv = ("sinfo", "--noheader", "--Node", "--states=drain,down", f"--format={NODE_FIELDS}")
        return parse_sinfo(self._run(*argv).stdout)

    def accounted(self, job_id: int) -> SlurmEntry | None:
        """A job that has left the queue, where Slurm keeps accounts."""
        argv = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job_id}")
        result = self._ask(*argv, "--format=State")
        state = _last_line(result.stdout) if result.ok else ""
        return SlurmEntry(job_id, state) if state else None

    def node(self, name: str) -> SlurmNode:
        """A node as Slurm knows it."""
        argv = ("sinfo", "--noheader", "--Node", f"--nodes={name}", f"--format={NODE_FIELDS}")
        found = parse_sinfo(self._run(*argv).stdout)
        if not found:
            raise SoractlError(f"Slurm knows no node {name}", exit_code=ExitCode.NOTHING_SUITABLE)
        return found[0]

    def set_drained(self, name: str, reason: str) -> None:
        """Drain a node for a reason, or undrain it for ''."""
        more = ("state=drain", f"reason={reason}") if reason else ("state=undrain",)
        self._run("scontrol", "update", f"nodename={name}", *more)

    def _run(self, *argv: str, stdin: str = "") -> NodeResult:
        return _answer(self._ask(*argv, stdin=stdin))

    def _ask(self, *argv: str, stdin: str = "") -> NodeResult:
        return self.remote(this_machine(), Request(argv, stdin), DEADLINE_S)


def _answer(result: NodeResult) -> NodeResult:
    if result.ok:
        return result
    if result.exit_code == 127:
        raise SoractlError(
            f"there is no Slurm on this machine: {result.reason}",
            hint="type this on a login node of the cluster, or leave out --slurm",
        )
    lines = dict.fromkeys(line.strip() for line in result.stderr.splitlines())
    words = " ".join(line for line in lines if "--num-threads" not in line) or result.reason
    hint = next((hint for part, hint in HINTS.items() if part.lower() in words.lower()), None)
    raise SoractlError(f"Slurm refuses: {words}", hint=hint, exit_code=ExitCode.REFUSED)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
