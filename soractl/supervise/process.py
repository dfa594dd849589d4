"""The process of a supervisor: `python -m soractl.supervise.process RUN_DIR [--watch-only]`.

`start_supervisor` starts it. It runs in a session of its own, waits until the lease is free, and
supervises until the run ends. Its end is written to the lease; what it prints goes to
`supervisor.log` in the run's folder.
"""

import errno
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from soractl.cluster import settings
from soractl.cluster.notify import Notifier
from soractl.cluster.settings import Cluster
from soractl.errors import ExitCode, SoractlError
from soractl.remote.connections import Connections
from soractl.remote.local import start_detached
from soractl.runs.events import EventKind, EventLog
from soractl.runs.find import ssh_options
from soractl.runs.owner import NOT_TO_START, refuse_another_users
from soractl.runs.record import read_record
from soractl.supervise.act import UNUSABLE, Actor, hostfile_of
from soractl.supervise.lease import BEAT_S, Holder, Lease, LeaseLostError, read_holder
from soractl.supervise.observe import Verdict
from soractl.supervise.supervisor import Found, Hooks, Supervisor
from soractl.supervise.watch import SecondSign, Watcher
from soractl.supervise.witness import Witness, ask_all, evidence_of
from soractl.terminal import output
from trainer.run_dir import AttemptDir, RunDir

TAKEN_WITHIN_S = 10.0
POLL_S = 0.1


@dataclass(frozen=True)
class StartedSupervisor:
    """A supervisor's process, and who holds the lease of the run."""

    run: RunDir
    pid: int
    holder: Holder | None

    @property
    def stands_by(self) -> bool:
        """Another supervisor lives; this one takes over when that shows no life any more."""
        return self.holder is None or self.holder.pid != self.pid


def start_supervisor(run: RunDir, *, watch_only: bool) -> StartedSupervisor:
    """Start a supervisor's process on this machine, and wait a moment for its lease.

    SoractlError, exit code 5, for another user's run.
    """
    refuse_another_users(run, NOT_TO_START)
    more = ["--watch-only"] if watch_only else []
    program = [sys.executable, "-m", "soractl.supervise.process", str(run.path.absolute()), *more]
    pid = start_detached(program, run.supervisor_log)
    end_s = time.monotonic() + TAKEN_WITHIN_S
    while time.monotonic() < end_s:
        holder = read_holder(run.supervisor)
        if holder is not None and not holder.ended:
            return StartedSupervisor(run, pid, holder)
        time.sleep(POLL_S)
    return StartedSupervisor(run, pid, None)


def main(run_path: str, *, watch_only: bool) -> int:
    """Supervise a run; 0 finished, 93 given up, 5 another supervisor took over."""
    run = RunDir(Path(run_path))
    lease = Lease(run.supervisor, watch_only=watch_only)
    while not lease.take():
        time.sleep(BEAT_S)
    by_whom = "watching only" if watch_only else "acting"
    EventLog(run, "supervisor").write(EventKind.SUPERVISED, text=f"{by_whom}, token {lease.token}")
    with Connections(ssh_options(run)) as remote:
        actor = Actor(run, lease, remote)
        try:
            cluster = cluster_of(run)
            notifier = notifier_of(run, remote, cluster)
            hooks = hooks_of(run, remote, notifier)
            try:
                return Supervisor(actor, cluster, watch_only=watch_only, hooks=hooks).run()
            finally:
                notifier.finish()
        except LeaseLostError as error:
            output.error(error)
            return ExitCode.REFUSED
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            output.error(SoractlError(f"the disk is full: {error.filename}"))
            return ExitCode.GAVE_UP
        except UNUSABLE as error:
            fault = error if isinstance(error, SoractlError) else SoractlError(str(error))
            output.error(fault)
            lease.renew("failed", fault.message, ended=True)
            return fault.exit_code


def notifier_of(run: RunDir, remote: Connections, cluster: Cluster) -> Notifier:
    """Notifier of a run's changes; what was sent, or could not be, is an event."""
    log = EventLog(run, "supervisor")

    def on_sent(kind: str, way: str, fault: str) -> None:
        if kind or fault:
            text = f"{kind or way} by {way}" + (f" failed: {fault}" if fault else "")
            log.write(EventKind.NOTIFIED, text=text)

    return Notifier(cluster.notify, remote, os.environ, on_sent)


def hooks_of(run: RunDir, remote: Connections, notifier: Notifier) -> Hooks:
    """The witnesses that the supervisor asks, and who is notified."""

    def evidence(watcher: Watcher, verdict: Verdict) -> Found:
        return evidence_of(run, watcher, remote, verdict)

    def witness(attempt: AttemptDir) -> SecondSign:
        record = read_record(attempt)
        return Witness(lambda: ask_all(attempt, record, remote)).sign

    return Hooks(
        notify=notifier.tell,
        saw=notifier.saw,
        evidence=evidence,
        witness=witness,
    )


def cluster_of(run: RunDir) -> Cluster:
    """Settings of the cluster that a run was launched on."""
    hostfile = hostfile_of(run)
    return settings.load(Path(hostfile) if hostfile else None)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], watch_only="--watch-only" in sys.argv[2:]))
