"""Locations of runs: a folder here or on a node, and the errors of reaching it."""

import re
from dataclasses import dataclass
from pathlib import Path

from soractl.errors import ExitCode, SoractlError
from soractl.remote.nodes import Node, parse_node_list
from trainer.manifest import Manifest
from trainer.run_dir import RunDir

INCOMING = ".incoming-"
LOCK = ".sync.lock"  # among a run's checkpoints; held by whatever writes there
LOCKED = 75  # flock's exit code when another holds it
LOCK_WAIT_S = 3  # a copy that was killed takes its processes with it in that time

_UNDER_LOCK = (
    f'exec 9>> "$0"; flock -w {LOCK_WAIT_S} -E {LOCKED} 9 2>/dev/null; '
    f'[ $? -ne {LOCKED} ] || exit {LOCKED}; exec "$@"'
)
_LOCATION = re.compile(
    r"(?P<host>(?:[^@/:\s]+@)?(?:[^@/:\s]+|\[[^]/\s]+\])(?::[0-9]+)?):(?P<folder>.*)"
)


@dataclass(frozen=True)
class Location:
    """A folder of runs, and the node that has it."""

    node: Node
    folder: Path

    def __str__(self) -> str:
        return str(self.folder) if self.node.local else f"{self.node.name}:{self.folder}"


def parse_location(spec: str, here: Node) -> Location:
    """`DIR`, or `[user@]host[:port]:DIR`; as rsync, a slash before the colon means a path here."""
    match = _LOCATION.fullmatch(spec)
    if match is None:
        return Location(here, Path(spec).expanduser().absolute())
    node = parse_node_list(match["host"])[0]
    folder = Path(match["folder"].removeprefix("~/") or ".")
    return Location(here, folder.absolute()) if node.local else Location(node, folder)


def under_lock(lock: Path) -> tuple[str, ...]:
    """Words before a program on a node, which then holds the lock; LOCKED ends it if another does.

    A file system without locks, such as Lustre without `-o flock`, is no reason to end.
    """
    return ("sh", "-c", _UNDER_LOCK, str(lock))


def unreachable(location: Location, reason: str) -> SoractlError:
    """The error of a location that cannot be reached, or was lost; exit code 4."""
    return SoractlError(f"{location.node.name}: {reason}", exit_code=ExitCode.SOME_UNREACHABLE)


def locked(location: Location) -> SoractlError:
    """The error while another sync writes there; exit code 5."""
    return SoractlError(
        f"another sync of this run is at work on {location}", exit_code=ExitCode.REFUSED
    )


def incoming_path(run: RunDir, manifest: Manifest) -> Path:
    """The folder of a checkpoint until it is complete."""
    return run.checkpoints_folder / f"{INCOMING}{manifest.name}"
