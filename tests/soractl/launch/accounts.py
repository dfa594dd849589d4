"""Users of a test cluster beside root: each logs in to the nodes over ssh as themselves."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY, STAND_IN
from tests.soractl.conftest import CLUSTER_SH, Cluster

PORT = 2222  # of the sshd that takes their logins; the nodes' own one knows root alone
SITE = next(path for path in map(Path, sys.path) if path.name == "site-packages")


@dataclass(frozen=True)
class Place:
    """A folder that all users reach, with Python, its packages and this repository in it.

    The real ones may lie below folders of root alone, so each machine of the cluster mounts them.
    """

    cluster: Cluster
    folder: Path

    def set_up(self, users: "list[User]") -> None:
        """The users on every machine, an sshd for them on every node."""
        self.folder.chmod(0o755)
        sources = {"base": Path(sys.base_prefix), "site": SITE, "repository": REPOSITORY}
        passwd = self.folder / "passwd"
        lines = [f"{u.name}:x:{u.uid}:{u.uid}::{u.home}:/bin/sh\n" for u in users]
        passwd.write_text(Path("/etc/passwd").read_text() + "".join(lines))
        mounts = {passwd: Path("/etc/passwd")}
        for name, source in sources.items():
            (self.folder / name).mkdir()
            mounts[source] = self.folder / name
        commands = [f"mount --bind '{source}' '{target}'" for source, target in mounts.items()]
        numbers = range(1, self.cluster.size + 1)
        for machine in (("head",), *(("node", str(number)) for number in numbers)):
            self.cluster.do(*machine, "sh", "-ec", "\n".join(commands))
        for user in users:
            user.set_up()
        keys = self.cluster.folder / "keys"
        for number in numbers:
            config = self.folder / f"n{number}.conf"
            config.write_text(
                f"HostKey {keys}/n{number}\nAuthorizedKeysFile .ssh/authorized_keys\nPort {PORT}\n"
                "PasswordAuthentication no\nUsePAM no\nUseDNS no\nStrictModes no\nPidFile none\n"
            )
            self.cluster.do("node", str(number), "/usr/sbin/sshd", "-f", str(config))

    @property
    def python(self) -> Path:
        """The interpreter of the tests, where all users reach it."""
        return self.folder / "base" / Path(sys._base_executable).relative_to(sys.base_prefix)

    @property
    def path(self) -> str:
        """Where it finds packages and the repository."""
        return f"{self.folder}/repository:{self.folder}/site"


@dataclass(frozen=True)
class User:
    """An account, and what it types on the head node."""

    name: str
    uid: int
    place: Place

    @property
    def home(self) -> Path:
        """Its home folder, from which it launches."""
        return self.place.folder / self.name

    def set_up(self) -> None:
        """A home with a key that opens every node, a hostfile, and a program for the ranks."""
        ssh, programs = self.home / ".ssh", self.home / "bin"
        for folder in (ssh, programs, self.home / "hostfiles", self.home / "data/smoke"):
            folder.mkdir(parents=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "id_ed25519"], check=True
        )
        (ssh / "authorized_keys").write_text((ssh / "id_ed25519.pub").read_text())
        cluster, hosts, known = self.place.cluster, [], []
        for number in range(1, cluster.size + 1):
            address = f"10.77.0.{number + 10}"
            kind, key, _ = (cluster.folder / "keys" / f"n{number}.pub").read_text().split()
            hosts.append(f"Host n{number}\n  HostName {address}\n  Port {PORT}\n")
            known.append(f"[{address}]:{PORT} {kind} {key}\n")
        (ssh / "config").write_text("".join(hosts))
        (ssh / "known_hosts").write_text("".join(known))
        (self.home / "hostfiles/nodes.txt").write_text(f"n[1-{cluster.size}] slots=2\n")
        (self.home / "hostfiles/nodes.toml").write_text(f'environment = "{programs}"\n')
        (self.home / "data/smoke/clips.csv").write_text("path,caption\n")
        self.ranks("time.sleep(120)")
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, self.uid, self.uid)
        ssh.chmod(0o700)
        (ssh / "id_ed25519").chmod(0o600)

    def ranks(self, code: str) -> None:
        """Set what the ranks of its later launches run."""
        head = f"#!{self.place.python}\nimport sys\nsys.path[:0] = {self.place.path.split(':')}\n"
        for name, text in (("colossalai", code), ("torchrun", "")):
            program = STAND_IN.format(python="", repository=str(REPOSITORY), code=text)
            path = self.home / "bin" / name
            path.write_text(head + program)
            path.chmod(0o755)

    def soractl(
        self, *words: str, timeout_s: float = 60, **environ: object
    ) -> subprocess.CompletedProcess[str]:
        """The command as this user, from its home; `environ` comes on top of its environment."""
        become = ("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups")
        own = {"HOME": self.home, "USER": self.name, "PYTHONPATH": self.place.path}
        own |= {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        variables = (f"{name}={value}" for name, value in {**own, **environ}.items())
        environment = ("env", "-i", "-C", str(self.home), *variables)
        program = (str(self.place.python), "-m", "soractl.cli", *words)
        done = subprocess.run(
            [CLUSTER_SH, "head", *become, *environment, *program],
            env={**os.environ, "SORACTL_CLUSTER": str(self.place.cluster.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        print(f"{self.name}$ soractl {' '.join(words)}", done.returncode)  # noqa: T201 - a story
        print(done.stdout, done.stderr)  # noqa: T201 - that a failed test shows
        return done
