import pytest

from soractl.queue.slurm_answers import SlurmEntry, parse_squeue


def test_a_running_job_has_its_nodes_and_its_start():
    # squeue 22.05.8
    text = "2|RUNNING|2026-11-30T10:07:42|n[1-3]|None\n"
    entry = SlurmEntry(2, "RUNNING", nodes="n[1-3]", start="2026-11-30T10:07:42")
    assert parse_squeue(text) == entry
    assert (entry.is_active, entry.is_waiting, entry.in_words) == (True, False, "running as job 2")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("3|PENDING|N/A||Dependency", "waiting as job 3: it waits for another job"),
        (
            "3|PENDING|2026-11-30T12:00:00||Priority",
            "waiting as job 3: jobs of higher priority come first; may start at "
            "2026-11-30T12:00:00",
        ),
        (
            "3|PENDING|N/A||AssocGrpGRES",
            "waiting as job 3: the GPUs of your account are used up",
        ),
        (
            "3|PENDING|N/A||ReqNodeNotAvail, UnavailableNodes:n[1-2]",
            "waiting as job 3: nodes that it needs are down, drained or reserved",
        ),
        (
            "3|PENDING|N/A||Nodes required for job are DOWN, DRAINED or reserved for jobs in "
            "higher priority partitions",
            "waiting as job 3: nodes that it needs are down, drained or reserved",
        ),
        (
            "3|PENDING|N/A||JobHeldUser",
            "waiting as job 3: it is held; `scontrol release 3` lets it start",
        ),
        (  # the reason as a site's page of 2024 shows it, with Slurm's own comma and underscores
            "3|PENDING|N/A||ReqNodeNotAvail,_Reserved_for_maintenance",
            "waiting as job 3: nodes that it needs are down, drained or reserved",
        ),
        ("3|PENDING|N/A||SomethingOf2029", "waiting as job 3: SomethingOf2029"),
        ("3|PENDING|N/A||None", "waiting as job 3"),
    ],
)
def test_a_known_reason_becomes_words_and_an_unknown_one_stays(answer, words):
    assert parse_squeue(f"{answer}\n").in_words == words


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "FAILED"])
def test_a_job_that_has_ended_neither_waits_nor_runs(state):
    entry = parse_squeue(f"1|{state}|2026-11-30T10:07:35|n1|None\n")
    assert (entry.is_waiting, entry.is_active) == (False, False)


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("PENDING", "waiting"),
        ("EXPEDITING", "waiting"),  # of 25.11, as Slurm's own tests of expedited requeues name it
        ("REQUEUE_HOLD", "waiting"),
        ("RUNNING", "running"),
        ("COMPLETING", "completing"),
        ("SUSPENDED", "suspended"),
        ("CANCELLED by 0", "ended"),
        ("SOMETHING_OF_2029", "suspended"),  # nobody takes the run for ended before it has left
    ],
)
def test_a_state_is_a_phase_and_one_that_is_not_known_no_end(state, phase):
    assert parse_squeue(f"1|{state}|N/A||None\n").phase == phase


def test_an_empty_answer_is_no_job():
    assert parse_squeue("") is None


def test_an_answer_of_another_form_is_refused():
    with pytest.raises(ValueError, match="not enough values"):
        parse_squeue("JOBID PARTITION NAME\n")
