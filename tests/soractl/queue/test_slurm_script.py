import subprocess
from pathlib import Path

from soractl.cluster.settings import JobSettings
from soractl.queue.interface import Job
from soractl.queue.slurm_script import on_all_nodes, sbatch_text


def job(**changes):
    values = {
        "run": Path("/shared/runs/007-stage2"),
        "nodes": 3,
        "log": Path("/shared/runs/007-stage2/attempts/1/slurm.log"),
        "workdir": Path("/work"),
        "program": ("/env/bin/python", "-m", "program", "/shared/runs/007-stage2"),
        "environment": {"HOME": "/home/ana", "PATH": "/usr/bin"},
        "settings": JobSettings(),
        "lead_s": 90,
    }
    return Job(**{**values, **changes})


def test_a_script_asks_for_nodes_a_warning_and_a_requeue_and_becomes_the_program():
    assert sbatch_text(job()) == (
        "#!/bin/bash\n"
        "# The job of 007-stage2. Written by soractl; Slurm keeps a copy of its own and runs that "
        "again after a\n"
        "# requeue. The program below takes the signals that Slurm sends to the batch shell.\n"
        "#SBATCH --job-name=soractl-007-stage2-01c8d1\n"
        "#SBATCH --comment=run=/shared/runs/007-stage2\n"
        "#SBATCH --nodes=3\n"
        "#SBATCH --ntasks-per-node=1\n"
        "#SBATCH --output=/shared/runs/007-stage2/attempts/1/slurm.log\n"
        "#SBATCH --open-mode=append\n"
        "#SBATCH --export=NONE\n"
        "#SBATCH --requeue\n"
        "#SBATCH --signal=B:USR1@90\n"
        "#SBATCH --exclusive\n"
        "trap '' USR1 # until the program takes it: a warning that comes first must not end the "
        "job\n"
        "export HOME=/home/ana\n"
        "export PATH=/usr/bin\n"
        "cd /work || exit 1\n"
        "exec /env/bin/python -m program /shared/runs/007-stage2\n"
    )


def test_settings_of_the_cluster_become_directives_the_users_own_lines_last():
    settings = JobSettings(
        gpus_per_node=8,
        partition="gpu",
        account="video",
        qos="long",
        time="2-00:00:00",
        exclusive=False,
        lines=("--constraint=h100", "--mem=0"),
    )
    directives = [
        line.removeprefix("#SBATCH ")
        for line in sbatch_text(job(settings=settings)).splitlines()
        if line.startswith("#SBATCH ")
    ]
    assert directives[9:] == [
        *("--partition=gpu", "--account=video", "--qos=long", "--time=2-00:00:00"),
        *("--gpus-per-node=8", "--constraint=h100", "--mem=0"),
    ]


def test_slurm_of_25_11_puts_it_back_at_once_and_blamed_nodes_are_left_out():
    lines = sbatch_text(job(expedite=True, exclude=("n2", "n7"))).splitlines()
    assert "#SBATCH --requeue=expedite" in lines
    assert "#SBATCH --exclude=n2,n7" in lines


def test_a_warning_that_comes_before_the_program_does_not_end_the_job(tmp_path):
    program = ("/bin/sh", "-c", "kill -USR1 $$; echo goes on")
    done = subprocess.run(
        ["bash"],
        input=sbatch_text(job(workdir=tmp_path, program=program)),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "goes on\n"


def test_spaces_and_percent_signs_of_a_path_stay_what_they_are():
    text = sbatch_text(job(log=Path("/my work/50%/slurm.log"), workdir=Path("/my work")))
    assert '#SBATCH --output="/my work/50%%/slurm.log"\n' in text
    assert "cd '/my work' || exit 1\n" in text


def test_each_node_runs_its_own_script_with_a_home_and_the_runs_id(tmp_path):
    (tmp_path / "n2.sh").write_text('echo "$HOME $SORACTL_RUN_ID $GPUS"\n')
    argv = on_all_nodes(["n1", "n2"], tmp_path, "/runs/007 a", "/home/ana")
    assert argv[:10] == (
        *("srun", "--nodelist=n1,n2", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"),
        *("--kill-on-bad-exit=0", "--no-kill", "--export=NONE", "--overlap", "--cpu-bind=none"),
    )
    environ = {"SLURMD_NODENAME": "n2", "CUDA_VISIBLE_DEVICES": "2,3"}
    done = subprocess.run(argv[10:], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "/home/ana /runs/007 a 2,3\n"
