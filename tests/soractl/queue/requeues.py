"""Interruptions of a run in Slurm's queue, and what each one cost."""

import json
from dataclasses import dataclass

from soractl.queue.record import read_record
from soractl.runs.events import EventKind, metrics_rows, read_events
from tests.waiting import wait_for
from trainer.atomic_files import read_json


@dataclass(frozen=True)
class Requeue:
    """Seconds from the last step of an attempt to the first of the next, in parts."""

    save_s: float  # from the last step to the save's end
    over_s: float  # from there to the requeue: what none of the others explains
    queue_s: float  # from the requeue to the next start of the job
    start_s: float  # from there to the beginning of the first step
    step_s: float  # that step, with the first read of clips
    wall_s: float


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
    job = str(wait_for(lambda: read_record(attempt)).job_id)  # the folder is there before it
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
    events = {(one.attempt, one.kind): one for one in read_events(run) if one.by == "slurm"}
    steps = {}
    for row in metrics_rows(run):
        steps.setdefault(int(row["attempt"]), []).append(row)
    found = []
    for attempt in run.attempts():
        number = attempt.number
        if not {number, number + 1} <= set(steps):
            continue
        last, first = steps[number][-1], steps[number + 1][0]
        back = events[number, EventKind.REQUEUED].time_unix_s
        begun = events[number + 1, EventKind.STARTED].time_unix_s
        saved = read_json(attempt.stopped)["time_unix_s"]
        found.append(
            Requeue(
                save_s=saved - last["time_unix_s"],
                over_s=back - saved,
                queue_s=begun - back,
                start_s=first["time_unix_s"] - first["s_per_step"] - begun,
                step_s=first["s_per_step"],
                wall_s=first["time_unix_s"] - last["time_unix_s"],
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
            f"wall {one.wall_s:5.1f} = save {one.save_s:4.1f} + over {one.over_s:4.1f} "
            f"+ queue {one.queue_s:4.1f} + start {one.start_s:5.1f} + step {one.step_s:4.1f} s"
        )
