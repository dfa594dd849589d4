"""The program that stands by on a second node: `python -m soractl.jobs.standby RUN JOB HOST`.

A supervised job outlives its nodes, also the one of its batch shell (`--no-kill`): Slurm then
lets it run on without a batch shell, to its time limit. This puts such a job back into the queue.
"""

import sys
import time
from contextlib import suppress
from pathlib import Path

from soractl.errors import SoractlError
from soractl.queue.interface import DEFAULT, Queue
from soractl.queue.kinds import QUEUES
from soractl.queue.record import newest_job, note_end
from soractl.remote.connections import Connections
from soractl.remote.nodes import parse_node_list
from soractl.runs.events import EventKind, EventLog
from soractl.supervise.lease import BEAT_S, Sight, read_holder
from trainer.run_dir import RunDir


def stand_by(run: RunDir, job_id: int, host: str, queue: Queue) -> str:
    """Wait until the supervisor has left, or its node has; then requeue. What happened."""
    sight = Sight()
    while True:
        holder = read_holder(run.supervisor)
        if holder is not None and holder.ended:
            return "the supervisor has left"
        if holder is not None and sight.is_overdue(holder):
            with suppress(SoractlError):  # a question that is refused is asked again
                entry = queue.entry(job_id)
                if entry is None or not entry.is_active:
                    return "the job has ended"
                if host not in {node.name for node in parse_node_list(entry.nodes or "")}:
                    requeue(run, job_id, host, queue)
                    return "requeued"
        time.sleep(BEAT_S)


def requeue(run: RunDir, job_id: int, host: str, queue: Queue) -> None:
    """Put the job back; the next start notes the end of its attempt.

    What is done is noted before it, once: after it nothing is sure.
    """
    found = newest_job(run)
    if found and found[1].then != "requeued":
        text = f"{host} with the batch shell is lost"
        EventLog(run, "standby").write(EventKind.REQUEUED, attempt=found[0].number, text=text)
        note_end(found[0], "requeued")
    queue.requeue(job_id)


def main(run_path: str, job_id: str, host: str) -> int:
    """Stand by until there is nothing to stand by for."""
    run = RunDir(Path(run_path))
    found = newest_job(run)
    with Connections() as remote:
        queue = QUEUES[found[1].kind if found else DEFAULT](remote)
        stand_by(run, int(job_id), host, queue)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
