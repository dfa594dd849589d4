"""Interruptions of a run in Slurm's queue, and what each one cost."""

import json
import time
from dataclasses import dataclass

from soractl.queue.record import read_record
from soractl.runs.events import EventKind, metrics_rows, read_events
from tests.waiting import wait_for
from trainer.atomic_files import read_json


@dataclass(frozen=True)
class Requeue:
    """Seconds from the last step of an attempt to the first of the next, in parts."""

    save_s: float  # from the last step to the save's end
    queue_s: float  # from the requeue to the next start of the job
    start_s: float  # from there to the first step
    wall_s: float

    @property
    def overhead_s(self) -> float:
        """What none of these explains."""
        return self.wall_s - self.save_s - self.queue_s - self.start_s


def interrupt(run, slurm_cluster, after_steps, *, by_limit=False, timeout_s=900.0):
    """USR1 to the batch shell once the newest attempt has made so many steps; its number.

    `by_limit`: Slurm sends it, since the job is given a time limit that is nearer than two minutes,
    which is the warning's lead; Slurm looks each half minute.
    """
    number = len(run.attempts())
    attempt = run.attempts()[-1]

    def steps():
        return sum(int(row.get("attempt", 0)) == number for row in metrics_rows(run))

    wait_for(lambda: steps() >= after_steps, timeout_s)
    job = str(read_record(attempt).job_id)
    if by_limit:
        set_limit(slurm_cluster, job, minutes_of(slurm_cluster, job) + 2)
    else:
        slurm_cluster.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: read_record(attempt).then == "requeued", timeout_s)
    if by_limit:
        set_limit(slurm_cluster, job, "UNLIMITED")  # the next start has all its time
    wait_for(lambda: len(run.attempts()) > number, timeout_s)
    return number


def set_limit(slurm_cluster, job, minutes):
    """The job's time limit, from its start."""
    slurm_cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")


def minutes_of(slurm_cluster, job):
    """Whole minutes that the job has run."""
    shown = slurm_cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%M").stdout
    *hours, minutes, _ = shown.strip().split(":")
    return int(minutes) + 60 * sum(map(int, hours))


def requeues(run):
    """The cost of each requeue between two attempts that made steps, from files alone."""
    rows = [(int(row["attempt"]), float(row["time_unix_s"])) for row in metrics_rows(run)]
    events = {}
    for event in read_events(run):
        if event.by == "slurm":
            events[event.attempt, event.kind] = event.time_unix_s
    found = []
    with_steps = {number for number, _ in rows}
    for attempt in run.attempts():
        number = attempt.number
        if not {number, number + 1} <= with_steps:
            continue
        last = max(at for one, at in rows if one == number)
        first = min(at for one, at in rows if one == number + 1)
        begun = events[number + 1, EventKind.STARTED]
        found.append(
            Requeue(
                save_s=read_json(attempt.stopped)["time_unix_s"] - last,
                queue_s=begun - events[number, EventKind.REQUEUED],
                start_s=first - begun,
                wall_s=first - last,
            )
        )
    return found


def trained_batches(run):
    """(epoch, micro batch) of everything that the run trained on and kept, by its own ledgers."""
    found = []
    for attempt in filter(lambda one: one.trained.exists(), run.attempts()):
        for line in attempt.trained.read_text().splitlines():
            row = json.loads(line)
            found += [(row["epoch"], one) for rank in row["micro_batches"] for one in rank]
    return found


def lines(costs):
    """A table to print."""
    for one in costs:
        yield (
            f"wall {one.wall_s:5.1f} = save {one.save_s:5.1f} + queue {one.queue_s:5.1f} "
            f"+ start {one.start_s:5.1f} + {one.overhead_s:4.1f} s   ({time.strftime('%H:%M:%S')})"
        )
