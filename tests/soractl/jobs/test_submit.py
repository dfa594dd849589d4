import os

import pytest

from soractl.errors import SoractlError
from soractl.jobs.submit import lead_s, next_script, save_seconds, submit
from soractl.launch.prepare import LaunchOptions, prepare_launch, prepare_resume
from soractl.queue.record import JobRecord, note_end, read_record
from soractl.queue.slurm import Slurm
from soractl.remote.connections import Connections
from soractl.runs.events import EventKind, EventLog, read_events
from soractl.supervise.quarantine import set_apart
from trainer.atomic_files import read_json
from trainer.run_dir import RunDir

COMMAND = ["soractl", "launch", "smoke", "--slurm"]


def prepared():
    return prepare_launch("smoke", LaunchOptions(queue="slurm"), os.environ)


def script(*, supervised=False):
    with Connections() as remote:
        return next_script(prepared(), Slurm(remote), supervised=supervised)


def submitted():
    with Connections() as remote:
        return submit(prepared(), COMMAND, remote)


def test_a_launch_leaves_script_settings_and_job_in_the_attempts_folder(slurm_here):
    found = submitted()
    attempt = found.attempt
    assert (found.run.name, attempt.number, found.job_id) == ("001-smoke", 1, 12)
    assert read_record(attempt) == JobRecord(
        job_id=12, start={"kind": "fresh", "path": None, "reset_data": False}
    )
    text = attempt.job_script.read_text()
    assert text == (slurm_here.bin / "script.--parsable").read_text()
    assert "#SBATCH --nodes=2\n" in text
    assert f"-m soractl.jobs.batch {found.run.path}\n" in text
    assert read_json(attempt.config_json) == read_json(found.run.config_json)
    assert not attempt.plan.exists()  # its nodes are not known yet
    [event] = read_events(found.run)
    assert (event.kind, event.text) == (EventKind.SUBMITTED, "job 12 of Slurm")


def test_the_script_that_was_shown_is_the_one_that_is_submitted(slurm_here):
    shown = script()
    assert not (slurm_here.folder / "runs").exists()
    assert submitted().attempt.job_script.read_text() == shown


def test_a_supervised_job_holds_spares_and_outlives_its_nodes(slurm_here):
    with (slurm_here.folder / "hostfiles/slurm.toml").open("a") as file:
        file.write("spares = 1\n")
    plain = script()
    assert "#SBATCH --nodes=2\n" in plain
    assert "--no-kill" not in plain
    text = script(supervised=True)
    assert "#SBATCH --nodes=3\n" in text
    assert "#SBATCH --no-kill\n" in text
    assert text.endswith("/runs/001-smoke --supervise 1\n")


def test_nodes_set_apart_are_left_out_and_then_nothing_is_expedited(slurm_here):
    slurm_here.write("bin/config", "SlurmctldParameters     = enable_expedited_requeue\n")
    assert "#SBATCH --requeue=expedite\n" in script()
    (slurm_here.folder / "runs").mkdir()
    set_apart(slurm_here.folder / "runs", {"n7": "2 strikes"}, None)
    text = script()
    assert "#SBATCH --exclude=n7\n" in text
    assert "#SBATCH --requeue\n" in text


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("SlurmctldParameters     = (null)", "--requeue"),
        ("SlurmctldParameters     = cloud_dns,enable_expedited_requeue", "--requeue=expedite"),
    ],
)
def test_the_way_back_is_the_best_that_this_slurm_allows(slurm_here, setting, line):
    slurm_here.write("bin/config", f"KillWait                = 30 sec\n{setting}\n")
    assert f"#SBATCH {line}\n" in submitted().attempt.job_script.read_text()


def test_a_refusal_leaves_nothing_behind(slurm_here):
    slurm_here.write("bin/sbatch", "#!/bin/sh\necho 'sbatch: error: no' >&2\nexit 1\n")
    with pytest.raises(SoractlError, match="Slurm refuses: sbatch: error: no") as caught:
        submitted()
    assert caught.value.exit_code == 5
    assert not (slurm_here.folder / "runs").exists()


def test_a_refusal_after_the_check_leaves_no_run(slurm_here):
    slurm_here.write("bin/sbatch", "#!/bin/sh\n[ $1 = --test-only ] || exit 1\n")
    with pytest.raises(SoractlError, match="Slurm refuses: exit code 1"):
        submitted()
    assert list((slurm_here.folder / "runs").glob("*-*")) == []


def test_a_run_that_waits_is_not_submitted_again(slurm_here, save_checkpoint):
    run = submitted().run
    save_checkpoint(run, 3)
    slurm_here.write("bin/queue", "12|PENDING|N/A||Priority\n")
    again = prepare_resume("latest", LaunchOptions(), os.environ)
    with Connections() as remote, pytest.raises(SoractlError) as caught:
        submit(again, COMMAND, remote)
    assert (caught.value.message, caught.value.exit_code) == (
        "001-smoke is waiting as job 12: jobs of higher priority come first",
        5,
    )


def test_a_resume_of_a_run_of_slurm_goes_through_its_queue(slurm_here, save_checkpoint):
    first = submitted()
    checkpoint = save_checkpoint(first.run, 3)
    note_end(first.attempt, "ended")
    with Connections() as remote:
        second = submit(prepare_resume("1", LaunchOptions(), os.environ), COMMAND, remote)
    assert second.attempt.number == 2
    assert read_record(second.attempt).start == {
        "kind": "resume",
        "path": str(checkpoint.path),
        "reset_data": False,
    }


def test_nodes_without_a_number_of_gpus_are_refused(slurm_here):
    slurm_here.write("hostfiles/slurm.toml", "")
    with pytest.raises(SoractlError, match="how many GPUs does a node have") as caught:
        prepared()
    assert caught.value.exit_code == 2


def test_the_kind_of_the_cluster_sends_a_launch_to_the_queue(slurm_here):
    slurm_here.write("hostfiles/nodes.txt", "a1\na2\na3\n")
    slurm_here.write("hostfiles/nodes.toml", 'kind = "slurm"\nranks_per_node = 8\n')
    found = prepare_launch("smoke", LaunchOptions(), os.environ)
    assert (found.site.is_queued, found.plan.world_size) == (True, 24)


def test_an_allocation_is_used_in_place(slurm_here):
    environ = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
    found = prepare_launch("smoke", LaunchOptions(queue="slurm"), environ)
    assert (found.site.is_queued, found.site.source.origin) == (False, "Slurm job 7")
    assert [(node.node.name, node.ranks) for node in found.plan.nodes] == [("n1", 2), ("n2", 2)]


def test_saves_that_somebody_watched_have_durations(tmp_path):
    run = RunDir(tmp_path / "001-smoke")
    run.path.mkdir()
    log = EventLog(run, "follow")
    log.write(EventKind.SAVE_BEGUN, step=5)
    log.write(EventKind.SAVED, step=5)
    log.write(EventKind.SAVED, step=9)  # nobody saw it begin
    begun, saved, _ = read_events(run)
    assert save_seconds(run) == [saved.time_unix_s - begun.time_unix_s]


@pytest.mark.parametrize("refused", ["behind", "asked"])
def test_a_refusal_after_the_job_is_in_the_queue_takes_it_out_again(slurm_here, refused):
    if refused == "behind":
        with (slurm_here.folder / "hostfiles/slurm.toml").open("a") as file:
            file.write("chain = 2\n")
        script = (slurm_here.bin / "sbatch").read_text()
        no = '[ "$2" = --dependency=singleton ] && exit 1\n'
        slurm_here.write("bin/sbatch", script.replace("\n", f"\n{no}", 1))
    else:
        slurm_here.write("bin/scontrol", "#!/bin/sh\nexit 1\n")
    with pytest.raises(SoractlError, match="Slurm refuses: exit code 1"):
        submitted()
    waiting, job = (slurm_here.bin / "scancelled").read_text().splitlines()
    assert waiting.startswith("--state=PENDING --name=soractl-001-smoke-")
    assert job == "12"
    assert list((slurm_here.folder / "runs").glob("*-*")) == []


@pytest.mark.parametrize(
    ("saves_s", "lead"),
    [([], 120), ([2.0], 60), ([10.0, 20.0, 200.0], 430), ([20.0] * 99 + [500.0], 70)],
)
def test_the_warning_comes_early_enough_for_twice_a_slow_save(saves_s, lead):
    assert lead_s(saves_s) == lead
