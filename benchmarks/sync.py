"""Seconds of incompressible checkpoints over ssh: `soractl sync` beside rsync on its own.

All copy the same run from an sshd on a loopback address, without optimizers, into an empty folder,
taking turns. Only `soractl sync` checks every byte, and brings it to the disk, before it gives a
checkpoint its name; the time of a `sync` and of `sha256sum` after plain rsync is shown as well.
"""

import argparse
import getpass
import os
import platform
import resource
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from soractl.sync.rsync import FAST_CIPHER
from tests.making import make_manifest, publish_random_files
from trainer.atomic_files import write_json
from trainer.run_dir import RunDir, create_run

REPOSITORY = Path(__file__).resolve().parent.parent

ADDRESS = "127.0.77.99"
FILES, FILE_BYTES = 4, 250 * 10**6  # of a checkpoint's weights; its optimizer is a tenth here
REFERENCE = "(a) rsync -avzruP, as the reference"
PLAIN = f"(b) rsync -a, {FAST_CIPHER.partition('@')[0]}"
CHECKED = "(c) as (b), then sync and sha256sum"
OURS = "soractl sync"


@dataclass(frozen=True)
class Timed:
    """One copy of everything."""

    wall_s: float
    cpu_s: float  # of this end


@dataclass(frozen=True)
class Lab:
    """The run to be copied, and how its node is reached."""

    folder: Path
    port: int
    run: RunDir
    bytes: int

    @property
    def ssh(self) -> list[str]:
        key, known = self.folder / "key", self.folder / "known_hosts"
        options = ["-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={known}"]
        return ["ssh", "-F", "none", "-i", str(key), "-p", str(self.port), *options]

    @property
    def source(self) -> str:
        return f"{ADDRESS}:{self.run.path}/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1, help="size of what is copied (4: in full)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--mbit", type=float, help="let rsync send no faster; 950: a 1 Gb/s network"
    )
    parser.add_argument("--folder", type=Path, help="on the disk to measure; else temporary")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soractl-sync-", dir=arguments.folder))
    try:
        with server(folder) as port:
            lab = prepare(folder, port, arguments.gb)
            show(lab, measure(lab, arguments.rounds, arguments.mbit), arguments.rounds)
    finally:
        shutil.rmtree(folder)


def measure(lab: Lab, rounds: int, mbit: float | None) -> dict[str, list[Timed]]:
    """Every way in turn, so that a slow minute of the machine meets all of them."""
    target = lab.folder / "copy"
    into = f"{target}/{lab.run.name}/"
    fast = [*lab.ssh, "-c", FAST_CIPHER]
    limit = [f"--bwlimit={round(mbit * 1e6 / 8 / 1024)}"] if mbit else []
    without = ["--exclude=optimizer", *limit]
    plain = ["rsync", "-a", *without, "-e", shlex.join(fast), lab.source, into]
    check = f"sync; cd {shlex.quote(str(target))} && find . -type f -print0 | xargs -0 sha256sum"
    location = f"{ADDRESS}:{lab.port}:{lab.run.path.parent}"
    ours = [
        sys.executable,
        "-m",
        "soractl.cli",
        "sync",
        "--from",
        location,
        "--to",
        str(target),
        *limit,
    ]
    ways = {
        REFERENCE: [["rsync", "-avzruP", *without, "-e", shlex.join(lab.ssh), lab.source, into]],
        PLAIN: [plain],
        CHECKED: [plain, ["sh", "-c", check]],
        OURS: [ours],
    }
    found: dict[str, list[Timed]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, commands in ways.items():
            shutil.rmtree(target, ignore_errors=True)
            os.sync()
            target.mkdir()
            found[name].append(timed(commands, lab.folder))
    return found


def timed(commands: list[list[str]], folder: Path) -> Timed:
    """The time that these take one after another, and their processor time here."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for command in commands:
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(time.perf_counter() - began, cpu_s)


def show(lab: Lab, found: dict[str, list[Timed]], rounds: int) -> None:
    """The table, medians of all rounds."""
    version = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True)
    print(
        f"{lab.bytes / 1e9:.2f} GB in files of {FILE_BYTES / 1e6:.0f} MB, {rounds} rounds, medians"
    )
    print(f"{os.cpu_count()} cores, {platform.release()}; {version.stdout.splitlines()[0].strip()}")
    print(
        f"{'':38}{'wall s':>9}{'min - max':>15}{'CPU s here':>12}"
        f"{'MB/s':>7}{'of (a)':>8}{'of (b)':>8}"
    )
    wall = {name: statistics.median(one.wall_s for one in runs) for name, runs in found.items()}
    for name, runs in found.items():
        times = [one.wall_s for one in runs]
        cpu_s = statistics.median(one.cpu_s for one in runs)
        spread = f"{min(times):.1f} - {max(times):.1f}"
        speeds = [wall[other] / wall[name] for other in (REFERENCE, PLAIN)]
        print(
            f"{name:38}{wall[name]:9.1f}{spread:>15}{cpu_s:12.1f}"
            f"{lab.bytes / wall[name] / 1e6:7.0f}{speeds[0]:7.2f}x{speeds[1]:7.2f}x"
        )


def prepare(folder: Path, port: int, gigabytes: float) -> Lab:
    """A run of random weights, and settings that lead `soractl` to the node."""
    run = create_run(folder / "runs", "stage1")
    write_json(run.run_json, {"stage": "stage1"})
    count = max(1, round(gigabytes * 1e9 / (FILES * FILE_BYTES)))
    for step in range(1, count + 1):
        save(run, step)
    (folder / "hostfiles").mkdir()
    (folder / "hostfiles" / "local.toml").write_text(
        f'[ssh]\nconfig_file = "/dev/null"\nidentity_file = "{folder}/key"\n'
        f'known_hosts_file = "{folder}/known_hosts"\n'
    )
    return Lab(folder, port, run, count * FILES * FILE_BYTES)


def save(run: RunDir, step: int) -> None:
    sizes = {f"model/model-{i:05d}.safetensors": FILE_BYTES for i in range(FILES)}
    sizes["optimizer/__0_0.distcp"] = FILES * FILE_BYTES // 10
    publish_random_files(run, make_manifest(step, world_size=1), sizes)


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """An sshd with keys of its own; its port."""
    for name in ("key", "host_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    with socket.create_server((ADDRESS, 0)) as probe:
        port = probe.getsockname()[1]
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[{ADDRESS}]:{port} {key}\n")
    settings = (
        f"ListenAddress {ADDRESS}\nPort {port}\nHostKey {folder}/host_key\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/key.pub\nPasswordAuthentication no\nUsePAM no\nPidFile none\n"
    )
    (folder / "sshd_config").write_text(settings)
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    command = f"exec {program} -D -e -f {shlex.quote(str(folder / 'sshd_config'))}"
    argv = ["sh", "-c", command]
    if getpass.getuser() == "root":  # sshd wants /run/sshd then
        argv = [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *argv[:2],
        ]
        argv.append(f"mount -t tmpfs tmpfs /run && mkdir /run/sshd && {command}")
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection((ADDRESS, port), 1).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
