"""rsync: its command line, its progress, and its exit codes as errors."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.remote.local import stream
from soractl.remote.ssh_command import SshOptions, arguments, connecting, for_any_shell
from soractl.sync.locations import LOCKED, Location, locked, under_lock, unreachable
from soractl.terminal.hints import to_type
from trainer.checkpoint_dir import READER_MARK
from trainer.manifest import MANIFEST
from trainer.run_dir import RunDir

PARTIAL = ".rsync-partial"
FAST_CIPHER = "aes128-gcm@openssh.com"  # the default, chacha20, takes nearly twice the time
NEEDED = "rsync 3.1 or newer"
IDLE_TIMEOUT_S = 60  # after which a connection counts as lost
DESCRIPTION = tuple(path.name for path in RunDir(Path()).description)

_MARKED = 'touch -- "$0" 2>/dev/null; "$@"; code=$?; rm -f -- "$0"; exit $code'
_NO_CIPHER = ("no matching cipher", "Unknown cipher", "Bad SSH2 cipher")
_SOURCE_GONE = (23, 24)  # some files could not be read, or are gone
# Checksums decide; what a file system refuses of owners, rights and times means nothing.
_ATTRIBUTES = re.compile(r"rsync: (\[\w+\] )?(failed to set|chown|chgrp|chmod|utime)\b")
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
    shell: tuple[str, ...] = ()  # ssh with its options, where ssh was asked for them


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
    # Owners are those of the other machine and mean nothing here.
    argv = ["rsync", "-rltp", "-s", f"--timeout={IDLE_TIMEOUT_S}", *job.options]
    argv += ["--info=progress2", "--no-human-readable", "--outbuf=N"]
    if link.bwlimit:
        argv.append(f"--bwlimit={link.bwlimit}")
    if job.remote:
        argv.append(f"--rsh={shlex.join(_ssh(job.remote, link))}")
    if job.remote and (wrapper := _wrapper(job)):
        argv.append(f"--rsync-path={for_any_shell([*wrapper, 'rsync'])}")
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
    if done.exit_code == 0 or _only_attributes(done.exit_code, stderr):
        return link
    if link.cipher and any(words in stderr for words in _NO_CIPHER):
        return run(job, replace(link, cipher=None), on_bytes, held=held)
    raise _fault(job, done.exit_code or 0, stderr)


def bytes_so_far(output: bytes) -> int | None:
    """The newest number of bytes in a piece of rsync's progress output."""
    found = re.findall(rb"(?:^|\r|\n)\s*([0-9]+)\s+[0-9]+%", output)
    return int(found[-1]) if found else None


def _only_attributes(code: int | None, stderr: str) -> bool:
    """All contents arrived, though the destination refused some attributes of files."""
    faults = [line for line in stderr.splitlines() if line.startswith("rsync: ")]
    return code == _SOURCE_GONE[0] and bool(faults) and all(map(_ATTRIBUTES.match, faults))


def _report_bytes(output: bytes, on_bytes: Callable[[int], None]) -> None:
    number = bytes_so_far(output)
    if number is not None:
        on_bytes(number)


def _ssh(location: Location, link: Link) -> list[str]:
    """ssh with the options that a Remote uses as well."""
    plain = [*arguments(location.node, link.ssh), *connecting({}, link.ssh)]
    argv = [*(link.shell or plain), "-o", f"ServerAliveInterval={IDLE_TIMEOUT_S // 4}"]
    return [*argv, *(("-c", link.cipher) if link.cipher else ())]


def _wrapper(job: RsyncJob) -> tuple[str, ...]:
    """The program around the node's rsync, with which mark and lock always end."""
    if job.lock and job.source.node.local:
        return under_lock(job.lock)
    if job.mark and job.destination.node.local:
        return ("sh", "-c", _MARKED, str(job.mark))
    return ()


def _address(location: Location) -> str:
    if location.node.local:
        return str(location.folder)
    name = location.node.name
    return f"{f'[{name}]' if ':' in name else name}:{location.folder}"


def _unfit(job: RsyncJob, code: int, stderr: str) -> str:
    """The end that has no rsync, or one that lacks an option; else nothing."""
    there = job.remote.node.name if job.remote else "this machine"
    if code == 127 or "rsync: command not found" in stderr or "rsync: not found" in stderr:
        here = stderr.startswith("rsync: No such file")
        return f"no rsync on {'this machine' if here else there}"
    if re.search("unknown option|unrecognized option|invalid option", stderr):
        far = "on remote machine" in stderr or code == 12
        return f"the rsync of {there if far else 'this machine'} is too old, or is openrsync"
    return ""


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
    if unfit := _unfit(job, code, stderr):
        return SoractlError(
            f"{unfit}: {reason}", hint=f"install {NEEDED}", exit_code=ExitCode.FAILED
        )
    if job.remote and "is your shell clean" in stderr:
        return SoractlError(
            f"{job.remote.node.name}: a login file prints, which rsync cannot read",
            hint="let ~/.bashrc there (~/.zshenv, ~/.tcshrc) print nothing where no terminal is",
            exit_code=ExitCode.FAILED,
        )
    if code in _SOURCE_GONE:
        return SourceGone(reason)
    if job.remote and code in _LOST:
        return unreachable(job.remote, f"unreachable: {reason}")
    return SoractlError(f"rsync ended with {code}: {reason}", exit_code=ExitCode.FAILED)
