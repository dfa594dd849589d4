"""rsync: its command line, its progress, and its exit codes as errors."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.remote.local import stream
from soractl.remote.ssh_config import SshOptions
from soractl.sync.locations import LOCK_WAIT_S, LOCKED, Location, locked, unreachable
from soractl.terminal.hints import to_type
from trainer.checkpoint_dir import READER_MARK
from trainer.manifest import MANIFEST
from trainer.run_dir import RunDir

PARTIAL = ".rsync-partial"
FAST_CIPHER = "aes128-gcm@openssh.com"  # the default, chacha20, takes nearly twice the time
IDLE_TIMEOUT_S = 60  # after which a connection counts as lost
DESCRIPTION = tuple(path.name for path in RunDir(Path()).description)

_MARKED = 'touch -- "$0" 2>/dev/null; "$@"; code=$?; rm -f -- "$0"; exit $code'
_NO_CIPHER = ("no matching cipher", "Unknown cipher", "Bad SSH2 cipher")
_SOURCE_GONE = (23, 24)  # some files could not be read, or are gone
_LOST = (10, 12, 30, 35, 255)  # socket, protocol stream, silence, no connection, ssh


@dataclass(frozen=True)
class RsyncJob:
    """One rsync: the contents of a folder into another; one of the two may be on a node."""

    source: Location
    destination: Location
    options: tuple[str, ...]
    mark: Path | None = None  # at the source, there as long as anything reads it
    lock: Path | None = None  # at the destination, held as long as anything writes there

    @property
    def remote(self) -> Location | None:
        """The location on another machine, if one is."""
        return next((end for end in (self.source, self.destination) if not end.node.local), None)


@dataclass(frozen=True)
class Link:
    """The connection to the node, and its limit of speed."""

    ssh: SshOptions
    bwlimit: int | None = None  # KiB/s
    cipher: str | None = FAST_CIPHER
    shared: Path | None = None  # folder of ssh's control socket: one connection for all


class SourceGone(Exception):
    """Raised when files of the source are gone or unreadable; the message is rsync's."""


def of_checkpoint(left_out: Sequence[str], *, earlier: str | None) -> tuple[str, ...]:
    """Options for one checkpoint; files of an `earlier` version are reused by hard links."""
    excluded = [f"--exclude=/{name}" for name in (*left_out, MANIFEST, f"{READER_MARK}*")]
    deletion = ("--delete", "--delete-excluded", f"--filter=P {PARTIAL}/")
    link = [f"--link-dest=../{earlier}"] if earlier else []
    return (f"--partial-dir={PARTIAL}", *deletion, *excluded, *link)


def of_description() -> tuple[str, ...]:
    """Options for a run's describing files; rsync writes each aside and renames it."""
    return (*(f"--include=/{name}" for name in DESCRIPTION), "--exclude=*")


def command(job: RsyncJob, link: Link) -> list[str]:
    """The whole command line."""
    argv = ["rsync", "-a", "-s", f"--timeout={IDLE_TIMEOUT_S}", *job.options]
    argv += ["--info=progress2", "--no-human-readable", "--outbuf=N"]
    if link.bwlimit:
        argv.append(f"--bwlimit={link.bwlimit}")
    if job.remote:
        argv.append(f"--rsh={shlex.join(_ssh(job.remote, link))}")
    if job.remote and (wrapper := _wrapper(job)):
        argv.append(f"--rsync-path={shlex.join([*wrapper, 'rsync'])}")
    return [*argv, f"{_address(job.source)}/", f"{_address(job.destination)}/"]


def run(
    job: RsyncJob, link: Link, on_bytes: Callable[[int], None], *, held: Sequence[int] = ()
) -> Link:
    """Run one job; `on_bytes` gets the bytes so far. Returns the link that worked.

    Raises SourceGone, or SoractlError: exit code 4 when the node is lost, 5 when another copy
    writes there, 1 for anything else, such as a full disk. `held` files stay open until the end.
    """
    argv = command(job, link)
    done = stream(argv, lambda output: _report_bytes(output, on_bytes), held=held)
    stderr = done.stderr.text
    if done.exit_code == 0:
        return link
    if link.cipher and any(words in stderr for words in _NO_CIPHER):
        return run(job, replace(link, cipher=None), on_bytes, held=held)
    raise _fault(job, done.exit_code or 0, stderr)


def bytes_so_far(output: bytes) -> int | None:
    """The newest number of bytes in a piece of rsync's progress output."""
    found = re.findall(rb"(?:^|\r|\n)\s*([0-9]+)\s+[0-9]+%", output)
    return int(found[-1]) if found else None


def _report_bytes(output: bytes, on_bytes: Callable[[int], None]) -> None:
    number = bytes_so_far(output)
    if number is not None:
        on_bytes(number)


def _ssh(location: Location, link: Link) -> list[str]:
    """ssh with the options that a Remote uses as well."""
    options = link.ssh
    argv = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={options.connect_timeout_s:.0f}"]
    argv += ["-o", f"ServerAliveInterval={IDLE_TIMEOUT_S // 4}"]
    argv += ["-c", link.cipher] if link.cipher else []
    if link.shared:
        share = {"ControlMaster": "auto", "ControlPath": link.shared / "link", "ControlPersist": 5}
        argv += [word for name, value in share.items() for word in ("-o", f"{name}={value}")]
    if options.config_file != SshOptions.config_file:
        argv += ["-F", str(Path(options.config_file).expanduser())]
    if options.known_hosts_file:
        argv += ["-o", f"UserKnownHostsFile={Path(options.known_hosts_file).expanduser()}"]
    if options.accept_new_host_keys:
        argv += ["-o", "StrictHostKeyChecking=accept-new"]
    if options.identity_file:
        argv += ["-i", str(Path(options.identity_file).expanduser())]
    user, port = location.node.user or options.user, location.node.port or options.port
    argv += ["-p", str(port)] if port else []
    argv += ["-l", user] if user else []
    return argv


def _wrapper(job: RsyncJob) -> tuple[str, ...]:
    """The program around the node's rsync, with which mark and lock always end."""
    if job.lock and job.source.node.local:
        return ("flock", "-w", str(LOCK_WAIT_S), "-E", str(LOCKED), str(job.lock))
    if job.mark and job.destination.node.local:
        return ("sh", "-c", _MARKED, str(job.mark))
    return ()


def _address(location: Location) -> str:
    return (
        str(location.folder) if location.node.local else f"{location.node.name}:{location.folder}"
    )


def _fault(job: RsyncJob, code: int, stderr: str) -> Exception:
    lines = [line for line in stderr.splitlines() if line.strip()]
    reason = next(
        (line for line in lines if not line.startswith("rsync error")), "".join(lines[-1:])
    )
    if "No space left on device" in stderr:
        location = job.destination
        return SoractlError(
            f"no space left on {location}",
            hint="what was copied stays for the next sync; "
            f"`{to_type('ckpt', 'prune')}` makes room",
            exit_code=ExitCode.FAILED,
        )
    if job.lock and code == LOCKED:
        return locked(job.destination)
    if code in _SOURCE_GONE:
        return SourceGone(reason)
    if job.remote and code in _LOST:
        return unreachable(job.remote, f"unreachable: {reason}")
    return SoractlError(f"rsync ended with {code}: {reason}", exit_code=ExitCode.FAILED)
