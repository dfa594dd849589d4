"""The two ends of a copy: a folder of runs here, or on a node, asked through a Remote."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from soractl.errors import ExitCode, SoractlError
from soractl.nodes import Node, parse_node_list
from soractl.remote import Remote, Request
from soractl.verification import Facts, broken_files, total_bytes
from trainer.run_dir import (
    MANIFEST,
    Checkpoint,
    Manifest,
    RunDir,
    judge_checkpoint,
    parse_manifest,
    runs,
    sync_to_disk,
)

INCOMING = ".incoming-"
LOCK = ".sync.lock"  # among a run's checkpoints; held by whatever writes there
LOCKED = 75  # flock's exit code when another holds it
LOCK_WAIT_S = 3  # a copy that was killed takes its processes with it in that time
ASK_S = 60.0
_SLOWEST_READ_BYTES_PER_S = 20e6

_PLACE = re.compile(r"(?P<host>(?:[^@/:\s]+@)?[^@/:\s]+(?::[0-9]+)?):(?P<folder>.*)")

_NAMES = 'cd -- "$1" 2>/dev/null || exit 0; for d in */; do echo "${d%/}"; done'
_LOOK = r"""
cd -- "$1/checkpoints" 2>/dev/null || exit 0
for c in epoch*-global_step*/; do
  c=${c%/}
  [ -d "$c" ] || continue
  echo "checkpoint $c"
  find "$c" -type f -printf 'file %s %P\n'
  [ ! -f "$c/checkpoint.json" ] || { printf 'manifest '; tr -d '\n' < "$c/checkpoint.json"; echo; }
done
"""
_MAKE_ROOM = 'mkdir -p -- "$1"'
_MARK = '[ ! -d "$1" ] || touch -- "$1/$2"'
_UNMARK = 'rm -f -- "$1/$2"'
_HOLDS = 'test -f "$1/checkpoint.json"'
_BROKEN = 'cd -- "$1" && LC_ALL=C sha256sum -c --quiet - 2>/dev/null; true'
_FORGET = 'cd -- "$1" && xargs -r -d "\\n" rm -f --'
_PUBLISH = r"""
set -e
cd -- "$1"
cat > ".incoming-$2/.checkpoint.json"
find ".incoming-$2" -type f -exec sync -d -- {} +
mv -f -- ".incoming-$2/.checkpoint.json" ".incoming-$2/checkpoint.json"
rm -rf -- ".replaced-$2"
[ ! -e "$2" ] || mv -T -- "$2" ".replaced-$2"
mv -T -- ".incoming-$2" "$2"
sync -- .
rm -rf -- ".replaced-$2"
"""


@dataclass(frozen=True)
class Place:
    """A folder of runs, and the node where it is."""

    node: Node
    folder: Path

    def __str__(self) -> str:
        return str(self.folder) if self.node.local else f"{self.node.name}:{self.folder}"


@dataclass(frozen=True)
class Seen:
    """The checkpoints of one run at one moment."""

    complete: tuple[Checkpoint, ...] = ()  # oldest first
    incomplete: Mapping[str, str] = field(default_factory=dict)  # name: why


class End(Protocol):
    """What a copy does at either end."""

    place: Place

    def runs(self) -> list[RunDir]:
        """Every run, oldest first."""

    def look(self, run: RunDir) -> Seen:
        """The run's checkpoints."""

    def make_room(self, folder: Path) -> None:
        """Make a folder, with those above it."""

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether it is still there."""

    def mark(self, checkpoint: Checkpoint, reader: str) -> None:
        """Say that it is being read, so that retention leaves it."""

    def unmark(self, checkpoint: Checkpoint, reader: str) -> None:
        """Say that nobody of this name reads it any more."""

    def broken(
        self, folder: Path, files: Mapping[str, Facts], advance: Callable[[int], None]
    ) -> dict[str, str]:
        """Path and fault of each file that is not as its manifest says; they are deleted."""

    def publish(self, run: RunDir, manifest: Manifest) -> None:
        """Give an incoming folder its manifest and its final name."""


def parse_place(words: str, here: Node) -> Place:
    """`DIR`, or `[user@]host[:port]:DIR`; as rsync, a slash before the colon means a path here."""
    match = _PLACE.fullmatch(words)
    if match is None:
        return Place(here, Path(words).expanduser().absolute())
    node = parse_node_list(match["host"])[0]
    folder = Path(match["folder"].removeprefix("~/") or ".")
    return Place(here, folder.absolute()) if node.local else Place(node, folder)


class Here:
    """A folder of runs on this machine."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def runs(self) -> list[RunDir]:
        """Every run, oldest first."""
        return runs(self.place.folder)

    def look(self, run: RunDir) -> Seen:
        """The run's checkpoints."""
        incomplete = {path.name: why for path, why in run.incomplete().items()}
        return Seen(tuple(run.checkpoints()), incomplete)

    def make_room(self, folder: Path) -> None:
        """Make a folder, with those above it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SoractlError(f"{folder}: {error.strerror}", exit_code=ExitCode.FAILED) from None

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether it is still there."""
        return (checkpoint.path / MANIFEST).is_file()

    def mark(self, checkpoint: Checkpoint, reader: str) -> None:
        """Say that it is being read, so that retention leaves it."""
        if checkpoint.path.is_dir():
            checkpoint.reader_mark(reader).touch()

    def unmark(self, checkpoint: Checkpoint, reader: str) -> None:
        """Say that nobody of this name reads it any more."""
        checkpoint.reader_mark(reader).unlink(missing_ok=True)

    def broken(
        self, folder: Path, files: Mapping[str, Facts], advance: Callable[[int], None]
    ) -> dict[str, str]:
        """Path and fault of each file that is not as its manifest says; they are deleted."""
        faults = broken_files(folder, files, advance)
        for name in faults:
            (folder / name).unlink(missing_ok=True)
        return faults

    def publish(self, run: RunDir, manifest: Manifest) -> None:
        """Give an incoming folder its manifest and its final name."""
        incoming = incoming_path(run, manifest)
        for file in manifest.files:
            sync_to_disk(incoming / file)
        run.publish(incoming, manifest)


class There:
    """A folder of runs on a node."""

    def __init__(self, place: Place, remote: Remote) -> None:
        self.place = place
        self._remote = remote

    def runs(self) -> list[RunDir]:
        """Every run, oldest first."""
        names = self._ask(_NAMES, self.place.folder).splitlines()
        return runs_of_names(self.place.folder, names)

    def look(self, run: RunDir) -> Seen:
        """The run's checkpoints."""
        return parse_look(run, self._ask(_LOOK, run.path))

    def make_room(self, folder: Path) -> None:
        """Make a folder, with those above it."""
        self._ask(_MAKE_ROOM, folder)

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether it is still there."""
        return self._code(_HOLDS, checkpoint.path) == 0

    def mark(self, checkpoint: Checkpoint, reader: str) -> None:
        """Say that it is being read, so that retention leaves it."""
        self._ask(_MARK, checkpoint.path, checkpoint.reader_mark(reader).name)

    def unmark(self, checkpoint: Checkpoint, reader: str) -> None:
        """Say that nobody of this name reads it any more."""
        self._ask(_UNMARK, checkpoint.path, checkpoint.reader_mark(reader).name)

    def broken(
        self, folder: Path, files: Mapping[str, Facts], advance: Callable[[int], None]
    ) -> dict[str, str]:
        """Path and fault of each file that is not as its manifest says; they are deleted."""
        sums = "".join(f"{facts['sha256']}  {name}\n" for name, facts in files.items())
        patience = ASK_S + total_bytes(files) / _SLOWEST_READ_BYTES_PER_S
        told = self._ask(_BROKEN, folder, stdin=sums, deadline_s=patience)
        faults = dict(line.rpartition(": ")[::2] for line in told.splitlines())
        if faults:
            self._ask(_FORGET, folder, stdin="".join(f"{name}\n" for name in faults))
        why = {"FAILED": "has another checksum than its manifest"}
        return {name: why.get(word, "cannot be read") for name, word in faults.items()}

    def publish(self, run: RunDir, manifest: Manifest) -> None:
        """Give an incoming folder its manifest and its final name."""
        name = checkpoint_name(manifest)
        text = json.dumps(asdict(manifest), indent=2) + "\n"
        patience = ASK_S + total_bytes(manifest.files) / _SLOWEST_READ_BYTES_PER_S
        self._ask(_PUBLISH, run.checkpoints_folder, name, stdin=text, deadline_s=patience)
