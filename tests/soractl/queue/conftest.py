import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.missing import give_up
from tests.soractl.conftest import Cluster
from tests.waiting import wait_for

GPUS = Path(__file__).parents[2] / "cluster" / "bin"  # a stand-in of nvidia-smi
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# Short times, so that a test need not wait; Debian 12 has 22.05.8.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost=n0
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=300
SlurmdTimeout=20
GresTypes=gpu
MailProg=/bin/true
NodeName=n[1-3] CPUs=16 RealMemory=16000 Gres=gpu:h100:8 State=UNKNOWN
PartitionName=gpu Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=n[1-3] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@dataclass(frozen=True)
class SlurmCluster:
    """Three nodes of the test cluster under a real slurmctld; commands run on the head node."""

    cluster: Cluster
    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    def run(self, *argv, cwd=None, check=True):
        """A command on the head node, from a folder: the finished process."""
        environ = {
            **os.environ,
            "SORACTL_CLUSTER": str(self.cluster.folder),
            "SLURM_CONF": str(self.conf),
        }
        environ["PATH"] += f":{GPUS}"
        for name in [name for name in environ if name.startswith("SORACTL_HOSTFILE")]:
            del environ[name]
        script = Path(__file__).parents[2] / "cluster" / "cluster.sh"
        return subprocess.run(
            [script, "head", "env", "-u", "SORACTL_HOSTFILE", *argv],
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
        )

    def reconfigure(self, line):
        """A further line of slurm.conf."""
        self.conf.write_text(f"{line}\n{self.conf.read_text()}")
        self.run("scontrol", "reconfigure")

    def munge(self, *wrapped, socket="munge.sock"):
        """A munged on the head node; one serves all nodes by its socket."""
        key = self.folder / "munge.key"
        name = self.folder / socket.removesuffix(".sock")
        self.run(
            *(*wrapped, "/usr/sbin/munged", "--force", f"--key-file={key}"),
            *(f"--socket={self.folder}/{socket}", f"--pid-file={name}.pid"),
            *(f"--log-file={name}.log", f"--seed-file={name}.seed"),
        )

    def end_munge(self):
        """No client and no daemon can show who it is."""
        self.run("sh", "-c", f"kill $(cat {self.folder}/munge.pid)")
        wait_for(lambda: not (self.folder / "munge.sock").exists())

    def start(self):
        """slurmctld, a slurmd a node, until all nodes are idle."""
        self.run("/usr/sbin/slurmctld", "-c")
        for i in range(1, 4):
            self.cluster.do("node", str(i), "env", f"SLURM_CONF={self.conf}", "/usr/sbin/slurmd")
        idle = ("sinfo", "--noheader", "--states=idle", "--format=%D")
        wait_for(lambda: self.run(*idle, check=False).stdout.strip() == "3", 30)

    def queue(self):
        """States of all jobs that are waiting or running."""
        return self.run("squeue", "--noheader", "--format=%T").stdout.split()


@pytest.fixture
def make_slurm(start_cluster):
    """Gives three nodes with munge and the files of Slurm in a folder, before its `start`."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        give_up(f"{', '.join(missing)} not installed")

    def make(folder):
        for name in ("state", "log", "dev", "spool.n1", "spool.n2", "spool.n3"):
            (folder / name).mkdir(parents=True)
        (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder))
        gpus = f"NodeName=n[1-3] Name=gpu Type=h100 File={folder}/dev/gpu[0-7]\n"
        (folder / "gres.conf").write_text(gpus)
        for i in range(8):  # Slurm wants devices: these are /dev/null
            os.mknod(folder / "dev" / f"gpu{i}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        slurm = SlurmCluster(start_cluster(3), folder)
        slurm.munge()
        return slurm

    return make


@pytest.fixture
def before_start():
    """What a test does to Slurm's files and nodes before it starts: given by `parametrize`."""
    return lambda slurm: None


@pytest.fixture
def slurm_cluster(make_slurm, tmp_path, before_start):
    """slurmctld, a slurmd a node, and one munged for all, whose socket they share."""
    slurm = make_slurm(tmp_path / "slurm")
    before_start(slurm)
    slurm.start()
    return slurm
