"""Sites of a real Slurm that are not as they should be, keep accounts or have two users.

Ranks only save.

`make slurm` runs it with long_slurm.py.
"""

import re
import sys
import tempfile
import textwrap
from pathlib import Path

import libfaketime
import pytest

from soractl.queue.record import read_record
from tests.missing import give_up
from tests.soractl.launch.accounts import Place, User
from tests.soractl.queue.long_slurm import RANKS, processes, steps_of, wait_for_step
from tests.soractl.queue.long_slurm import site as site
from tests.soractl.queue.test_real_slurm import workplace_of as workplace_of
from tests.waiting import wait_for
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.ssh]
FAKETIME = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
SORACTL = Path(sys.executable).with_name("soractl")
LAUNCH = ("launch", "smoke", "--slurm", "--detach")


def refusal(slurm_cluster, folder, *words):
    """What soractl answers to words that Slurm refuses."""
    done = slurm_cluster.run(SORACTL, *words, cwd=folder, check=False)
    assert done.returncode == 5, done.stdout + done.stderr
    return done.stderr


def patient(slurm):
    """Slurm takes no node for lost while munge is down."""
    slurm.conf.write_text(slurm.conf.read_text().replace("SlurmdTimeout=20", "SlurmdTimeout=300"))


@pytest.mark.parametrize("before_start", [patient])
def test_while_munge_is_down_a_run_is_shown_by_its_files_and_all_else_is_refused(
    site, slurm_cluster, workplace
):
    soractl = site("")
    soractl(*LAUNCH)
    wait_for_step(site.run, 3)
    slurm_cluster.end_munge()
    shown = soractl("status")
    assert re.search(r"^state +unknown", shown, re.M)
    assert re.search(r"^queue +unknown: Slurm refuses: .*[Mm]unge", shown, re.M)
    assert re.search(r"^at +step \d+/30", shown, re.M)
    assert "unknown" in soractl("runs")
    for words in (LAUNCH, ("kill",), ("stop",)):
        assert "`munge -n | unmunge` shows" in refusal(slurm_cluster, workplace.folder, *words)
    slurm_cluster.munge()
    soractl("kill")
    assert slurm_cluster.queue() == []


def test_a_login_node_whose_clock_is_wrong_is_refused_with_a_hint(site, slurm_cluster, workplace):
    site("")
    late = ("env", f"LD_PRELOAD={FAKETIME}", "FAKETIME=-30m")
    slurm_cluster.munge(*late, socket="late.sock")
    conf = slurm_cluster.folder / "late.conf"
    conf.write_text(slurm_cluster.conf.read_text().replace("munge.sock", "late.sock"))
    words = ("env", f"SLURM_CONF={conf}", SORACTL, *LAUNCH)
    done = slurm_cluster.run(*words, cwd=workplace.folder, check=False)
    assert done.returncode == 5
    assert "their clocks or munge's keys differ" in done.stderr


def test_an_unknown_key_in_slurm_conf_is_named_and_runs_are_shown_by_their_files(
    site, slurm_cluster, workplace
):
    soractl = site("")
    soractl(*LAUNCH)
    wait_for_step(site.run, 2)
    good = slurm_cluster.conf.read_text()
    slurm_cluster.conf.write_text(f"{good}PreemptParameters=reclaim\n")  # of a later version
    shown = refusal(slurm_cluster, workplace.folder, *LAUNCH)
    assert "PreemptParameters" in shown
    assert "a key in slurm.conf is not known to this version of Slurm" in shown
    assert re.search(r"^at +step \d+/30", soractl("status"), re.M)
    slurm_cluster.conf.write_text(good)
    soractl("kill")
    assert slurm_cluster.queue() == []


def never_requeue(slurm):
    """The site's default is that jobs do not come back."""
    slurm.conf.write_text(f"JobRequeue=0\n{slurm.conf.read_text()}")


@pytest.mark.parametrize("before_start", [never_requeue])
def test_a_job_asks_to_be_requeued_where_the_site_does_not(site, slurm_cluster):
    soractl = site("")
    soractl(*LAUNCH)
    wait_for_step(site.run, 2)
    first = site.run.attempts()[0]
    job = read_record(first).job_id
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    wait_for(lambda: len(site.run.attempts()) == 2)
    soractl("kill")
    assert [read_record(one).job_id for one in site.run.attempts()] == [job, job]
    assert read_record(first).then == "requeued"


def test_arrays_and_heterogeneous_jobs_are_refused_in_a_sentence(site, slurm_cluster, workplace):
    site("")
    inside = f"{SORACTL} launch smoke --slurm --force"
    log = workplace.folder / "array.log"
    array = ("sbatch", "--array=1-1", f"--output={log}", f"--wrap={inside}; echo code $?")
    slurm_cluster.run(*array, cwd=workplace.folder)
    wait_for(lambda: log.exists() and "code" in log.read_text())
    assert "is part of a job array, whose tasks would train the same run" in log.read_text()
    assert log.read_text().endswith("code 2\n")
    two = ("salloc", "--nodes=1", ":", "--nodes=1", *inside.split())
    done = slurm_cluster.run(*two, cwd=workplace.folder, check=False)
    assert "is a heterogeneous allocation; a run needs nodes of one kind" in done.stderr
    assert done.returncode == 2
    assert not site.run.path.exists()


def test_a_folder_of_runs_that_nodes_do_not_share_is_named(site, slurm_cluster, workplace):
    runs = workplace.folder / "runs"
    runs.mkdir()
    for number in ("1", "2", "3"):
        own = ("mount", "-t", "tmpfs", "tmpfs", str(runs))
        slurm_cluster.cluster.do("node", number, *own)
    site("")
    words = (SORACTL, "launch", "smoke", "--slurm")
    done = slurm_cluster.run(*words, cwd=workplace.folder, check=False)
    assert done.returncode == 1
    assert f"its nodes may not share {site.run.attempts()[0].path}" in done.stdout + done.stderr


def test_a_full_spool_of_a_node_is_a_reason_in_words(site, slurm_cluster):
    spool = slurm_cluster.folder / "spool.n1"
    full = f"mount -t tmpfs -o size=64k tmpfs {spool}; dd if=/dev/zero of={spool}/full bs=1k"
    slurm_cluster.cluster.do("node", "1", "sh", "-c", f"{full} 2>&1 || true")
    soractl = site("", nodes=3)
    soractl(*LAUNCH)
    wait_for(lambda: "no node started it; `scontrol release" in soractl("status"))
    assert "state  queued" in soractl("status")
    soractl("kill")
    assert slurm_cluster.queue() == []


def test_a_full_disk_of_the_controller_is_slurms_own_sentence(site, slurm_cluster, workplace):
    site("")
    state = slurm_cluster.folder / "state"
    full = f"mount -t tmpfs -o size=64k tmpfs {state}; dd if=/dev/zero of={state}/full bs=1k"
    slurm_cluster.run("sh", "-c", f"{full} 2>&1 || true")
    shown = refusal(slurm_cluster, workplace.folder, *LAUNCH)
    assert "I/O error writing script" in shown
    assert "the disk of Slurm's controller is full" in shown
    assert not site.run.path.exists()


def test_two_users_train_side_by_side_and_leave_each_other_alone(make_slurm):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        slurm = make_slurm(Path(folder) / "slurm")
        place = Place(slurm.cluster, Path(folder))
        ana, ben = User("ana", 4001, place), User("ben", 4002, place)
        place.set_up([ana, ben])
        slurm.start()
        shared = place.folder / "runs"
        shared.mkdir()
        shared.chmod(0o1777)

        def soractl(user, *words, code=0):
            words = (*words, "--runs", str(shared))
            done = user.soractl(*words, timeout_s=300, SLURM_CONF=slurm.conf)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        for user in (ana, ben):  # on the same nodes, each with two GPUs of eight
            user.ranks(textwrap.dedent(RANKS))
            job = "[slurm]\nnodes = 2\ngpus_per_node = 2\nexclusive = false\n[env]\nLAST = 60\n"
            settings = f'environment = "{user.home}/bin"\n{job}'
            (user.home / "hostfiles/slurm.toml").write_text(settings)
            soractl(user, *LAUNCH)
        hers, his = RunDir(shared / "001-smoke"), RunDir(shared / "002-smoke")
        wait_for_step(hers, 3)
        wait_for_step(his, 3)
        assert slurm.queue() == ["RUNNING", "RUNNING"]
        assert "001-smoke belongs to ana" in soractl(ben, "kill", "1", code=5)
        assert "001-smoke belongs to ana" in soractl(ben, "stop", "1", code=5)
        shown = soractl(ben, "status", "1")
        assert re.search(r"^owner +ana, and so is its job", shown, re.M)
        assert re.search(r"^queue +running as job", shown, re.M)
        assert re.search(r"^001-smoke .* belongs to ana", soractl(ben, "runs"), re.M)
        soractl(ben, "kill")  # his own
        soractl(ana, "follow", "1")
        assert steps_of(hers) == list(range(1, 61))
        assert max(steps_of(his)) < 60
        assert his.checkpoints() != []
        assert slurm.queue() == []
        assert processes(slurm) == [0, 0, 0]


def test_nodes_that_nobody_may_log_in_to_are_asked_by_steps_of_the_job(
    site, slurm_cluster, workplace
):
    by_steps = '[ssh]\nclient = "srun"\n'
    soractl = site(by_steps)
    workplace.write("hostfiles/local.toml", by_steps)
    for number in ("1", "2", "3"):
        slurm_cluster.cluster.do("freeze", number)
    soractl(*LAUNCH)
    wait_for_step(site.run, 3)
    [attempt] = site.run.attempts()
    job = read_record(attempt).job_id
    shown = soractl("exec", f"job:{job}", "--", "hostname")
    assert ("n1" in shown, "n2" in shown) == (True, True)
    soractl("stop")
    for number in ("1", "2", "3"):
        slurm_cluster.cluster.do("thaw", number)
    assert site.run.checkpoints() != []
    assert processes(slurm_cluster) == [0, 0, 0]


# Its launcher leaves a process in a session of its own, which no signal to the step reaches.
ORPHAN = """
    if is_head and "RANK" not in os.environ and os.fork() == 0:
        os.setsid()
        if os.fork() == 0: os.execvp("sleep", ["sleep", "120"])
        os._exit(0)
"""


def test_stop_names_what_its_job_left_on_the_nodes_and_kill_ends_it(site, slurm_cluster, workplace):
    soractl = site("")
    before, after = RANKS.split('    if "RANK" not in os.environ:', 1)
    workplace.ranks(f'{before}{ORPHAN.lstrip(chr(10))}    if "RANK" not in os.environ:{after}')
    soractl(*LAUNCH)
    wait_for_step(site.run, 3)
    shown = soractl("stop", code=124)
    # its launcher's step, which waits for it, may be there too
    assert re.search(r"still there: \d process(es)? on n1\n", shown)
    assert processes(slurm_cluster)[0] > 0
    soractl("kill", site.run.name)
    assert processes(slurm_cluster) == [0, 0, 0]


ACCOUNTS = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=n0
AccountingStoragePass={folder}/munge.sock
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
PreemptType=preempt/qos
"""
DATABASE = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost=n0
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")
QOS = (
    "add cluster test",
    "add account video Cluster=test",
    "add qos low PreemptMode=requeue GraceTime=10",
    "add qos high Preempt=low",
    "add user root Account=video DefaultAccount=video QOS=low,high DefaultQOS=low",
)


def keep_accounts(slurm):
    """slurmdbd with a database of its own; the QOS high preempts low."""
    if not all(Path(f"/usr/sbin/{name}").exists() for name in ("slurmdbd", "mariadbd")):
        give_up("slurmdbd and mariadb-server-core not installed")
    folder = slurm.folder
    theirs = {line.partition("=")[0] for line in ACCOUNTS.splitlines()}
    ours = [one for one in slurm.conf.read_text().splitlines() if one.split("=")[0] not in theirs]
    slurm.conf.write_text(ACCOUNTS.format(folder=folder) + "\n".join(ours) + "\n")
    (folder / "slurmdbd.conf").write_text(DATABASE.format(folder=folder))
    (folder / "slurmdbd.conf").chmod(0o600)
    (folder / "db").mkdir()
    database = (
        f"/usr/sbin/mariadbd --no-defaults --user=root --datadir={folder}/db --skip-grant-tables"
    )
    tables = "create database mysql;\nuse mysql;\n" + SYSTEM_TABLES.read_text()
    (folder / "tables.sql").write_text(tables)
    slurm.run("sh", "-c", f"{database} --bootstrap < {folder}/tables.sql 2> {folder}/log/bootstrap")
    log = f"> {folder}/log/mariadbd 2>&1 < /dev/null"
    slurm.run("sh", "-c", f"{database} --socket={folder}/db.sock --skip-networking {log} &")
    wait_for((folder / "db.sock").exists)
    slurm.run("env", f"MYSQL_UNIX_PORT={folder}/db.sock", "/usr/sbin/slurmdbd")
    asked = ("sacctmgr", "--noheader", "show", "cluster")
    wait_for(lambda: slurm.run(*asked, check=False).returncode == 0)
    for words in QOS:
        slurm.run("sacctmgr", "--immediate", *words.split())


@pytest.mark.parametrize("before_start", [keep_accounts])
def test_with_accounts_wrong_ones_are_refused_and_a_qos_preempts(site, slurm_cluster, workplace):
    for setting, hint in {
        'account = "nobody"': "`sacctmgr show associations user=$USER` lists yours",
        'qos = "nothing"': "`sacctmgr show qos` lists them",
    }.items():
        site(setting)
        assert hint in refusal(slurm_cluster, workplace.folder, *LAUNCH)
    soractl = site('qos = "low"', nodes=3)
    soractl(*LAUNCH)
    wait_for_step(site.run, 3)
    urgent = ("--qos=high", "--nodes=1", "--exclusive", "--output=/dev/null", "--wrap=sleep 10")
    slurm_cluster.run("sbatch", *urgent, cwd="/tmp")
    wait_for(lambda: read_record(site.run.attempts()[0]).then == "requeued")
    wait_for(lambda: len(site.run.attempts()) == 2)
    soractl("kill")
