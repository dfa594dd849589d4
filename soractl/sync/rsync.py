"""rsync as it is used here: its command line, its progress, and what its exit codes mean."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.remote.local import stream
from soractl.remote.ssh_config import SshOptions
from soractl.sync.stores import LOCK_WAIT_S, LOCKED, Place, locked, unreachable
from trainer.checkpoint_dir import READER_MARK
from trainer.manifest import MANIFEST
from trainer.run_dir import RunDir

PARTIAL = ".rsync-partial"
FAST_CIPHER = "aes128-gcm@openssh.com"  # the default, chacha20, takes nearly twice the time
SILENCE_S = 60  # after which a connection counts as lost
DESCRIPTION = tuple(path.name for path in RunDir(Path()).description)

_MARKED = 'touch -- "$0" 2>/dev/null; "$@"; code=$?; rm -f -- "$0"; exit $code'
_NO_CIPHER = ("no matching cipher", "Unknown cipher", "Bad SSH2 cipher")
_VANISHED = (23, 24)  # some files could not be read, or are gone
_LOST = (10, 12, 30, 35, 255)  # socket, protocol stream, silence, no connection, ssh


@dataclass(frozen=True)
class Copying:
    """One rsync: the contents of a folder into another, of which one may be on a node."""

    source: Place
    destination: Place
    options: tuple[str, ...]
    mark: Path | None = None  # at the source, there as long as anything reads it
    lock: Path | None = None  # at the destination, held as long as anything writes there

    @property
    def remote(self) -> Place | None:
        """The end that is not here."""
        return next((end for end in (self.source, self.destination) if not end.node.local), None)


@dataclass(frozen=True)
class Link:
    """How the node is reached, and how fast it may go."""

    ssh: SshOptions
    bwlimit: int | None = None  # KiB/s
    cipher: str | None = FAST_CIPHER
    shared: Path | None = None  # a folder, by which one connection serves every rsync


class SourceGone(Exception):
    """Files of the source could not be read; the message is rsync's."""


def of_checkpoint(left_out: Sequence[str], *, earlier: str | None) -> tuple[str, ...]:
    """Options for one checkpoint; files of an `earlier` version are taken over by hard links."""
    excluded = [f"--exclude=/{name}" for name in (*left_out, MANIFEST, f"{READER_MARK}*")]
    deletion = ("--delete", "--delete-excluded", f"--filter=P {PARTIAL}/")
    link = [f"--link-dest=../{earlier}"] if earlier else []
    return (f"--partial-dir={PARTIAL}", *deletion, *excluded, *link)


def of_description() -> tuple[str, ...]:
    """Options for the files that say what a run is; rsync writes each aside and renames it."""
    return (*(f"--include=/{name}" for name in DESCRIPTION), "--exclude=*")


def command(copying: Copying, link: Link) -> list[str]:
    """The whole command line."""
    argv = ["rsync", "-a", "-s", f"--timeout={SILENCE_S}", *copying.options]
    argv += ["--info=progress2", "--no-human-readable", "--outbuf=N"]
    if link.bwlimit:
        argv.append(f"--bwlimit={link.bwlimit}")
    if copying.remote:
        argv.append(f"--rsh={shlex.join(_ssh(copying.remote, link))}")
    if copying.remote and (around := _around(copying)):
        argv.append(f"--rsync-path={shlex.join([*around, 'rsync'])}")
    return [*argv, f"{_address(copying.source)}/", f"{_address(copying.destination)}/"]


def run(
    copying: Copying, link: Link, on_bytes: Callable[[int], None], *, held: Sequence[int] = ()
) -> Link:
    """Copy; the bytes so far go to `on_bytes`. Returns the link as it was found to work.

    Raises SourceGone, or SoractlError: exit code 4 when the node is lost, 5 when another copy
    writes there, 1 for anything else, such as a full disk. `held` files stay open until the end.
    """
    argv = command(copying, link)
    done = stream(argv, lambda told: _tell(told, on_bytes), held=held)
    said = done.stderr.text
    if done.exit_code == 0:
        return link
    if link.cipher and any(words in said for words in _NO_CIPHER):
        return run(copying, replace(link, cipher=None), on_bytes, held=held)
    raise _fault(copying, done.exit_code or 0, said)


def bytes_so_far(told: bytes) -> int | None:
    """The newest number of bytes in a piece of rsync's progress."""
    found = re.findall(rb"(?:^|\r|\n)\s*([0-9]+)\s+[0-9]+%", told)
    return int(found[-1]) if found else None


def _tell(told: bytes, on_bytes: Callable[[int], None]) -> None:
    number = bytes_so_far(told)
    if number is not None:
        on_bytes(number)


def _ssh(place: Place, link: Link) -> list[str]:
    """ssh with the options that a Remote uses as well."""
    options = link.ssh
    argv = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={options.connect_timeout_s:.0f}"]
    argv += ["-o", f"ServerAliveInterval={SILENCE_S // 4}"]
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
    user, port = place.node.user or options.user, place.node.port or options.port
    argv += ["-p", str(port)] if port else []
    argv += ["-l", user] if user else []
    return argv


def _around(copying: Copying) -> tuple[str, ...]:
    """What the node's rsync runs under, so that mark and lock are gone with it in any case."""
    if copying.lock and copying.source.node.local:
        return ("flock", "-w", str(LOCK_WAIT_S), "-E", str(LOCKED), str(copying.lock))
    if copying.mark and copying.destination.node.local:
        return ("sh", "-c", _MARKED, str(copying.mark))
    return ()


def _address(place: Place) -> str:
    return str(place.folder) if place.node.local else f"{place.node.name}:{place.folder}"


def _fault(copying: Copying, code: int, said: str) -> Exception:
    lines = [line for line in said.splitlines() if line.strip()]
    why = next((line for line in lines if not line.startswith("rsync error")), "".join(lines[-1:]))
    if "No space left on device" in said:
        place = copying.destination
        return SoractlError(
            f"no space left on {place}",
            hint="what was copied stays for the next sync; `soractl ckpt prune` makes room",
            exit_code=ExitCode.FAILED,
        )
    if copying.lock and code == LOCKED:
        return locked(copying.destination)
    if code in _VANISHED:
        return SourceGone(why)
    if copying.remote and code in _LOST:
        return unreachable(copying.remote, f"unreachable: {why}")
    return SoractlError(f"rsync ended with {code}: {why}", exit_code=ExitCode.FAILED)
