"""The two ends of a copy: a folder of runs here, or on a node, asked through a Remote."""

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from soractl.checkpoints.verification import (
    Arrival,
    Facts,
    broken_files,
    broken_on_arrival,
    total_bytes,
)
from soractl.errors import ExitCode, SoractlError
from soractl.remote.nodes import Node, parse_node_list
from soractl.remote.requests import NodeResult, Remote, Request
from trainer.atomic_files import sync_to_disk
from trainer.checkpoint_dir import ANY_CHECKPOINT, REPLACED, Checkpoint, Incomplete
from trainer.manifest import MANIFEST, Manifest, missing_file, parse_manifest
from trainer.run_dir import RunDir, as_runs, runs

INCOMING = ".incoming-"
LOCK = ".sync.lock"  # among a run's checkpoints; held by whatever writes there
LOCKED = 75  # flock's exit code when another holds it
LOCK_WAIT_S = 3  # a copy that was killed takes its processes with it in that time
ASK_S = 60.0
_SLOWEST_READ_BYTES_PER_S = 20e6

_PLACE = re.compile(r"(?P<host>(?:[^@/:\s]+@)?[^@/:\s]+(?::[0-9]+)?):(?P<folder>.*)")

_CHECKSUM = re.compile(r"^([0-9a-f]{64}) [ *]\./(.*)$", re.MULTILINE)

# the names that the scripts below share with the trainer
_CONTRACT = f"manifest={MANIFEST} any_checkpoint='{ANY_CHECKPOINT}' replaced={REPLACED}"
_NAMES = 'cd -- "$1" 2>/dev/null || exit 0; for d in */; do echo "${d%/}"; done'
_LOOK = r"""
cd -- "$1/checkpoints" 2>/dev/null || exit 0
for c in $any_checkpoint/; do
  c=${c%/}
  [ -d "$c" ] || continue
  echo "checkpoint $c"
  find "$c" -type f -printf 'file %s %P\n'
  [ ! -f "$c/$manifest" ] || { printf 'manifest '; tr -d '\n' < "$c/$manifest"; echo; }
done
"""
_HOLDS = 'test ! -f "$1/$manifest" || echo yes'
# `sha256sum` takes four times as long as OpenSSL where processors have instructions for it.
_SUMS = r"""
cd -- "$1" || exit
set -- sha256sum
! command -v openssl > /dev/null || set -- openssl dgst -sha256 -r
xargs -r -d '\n' -n 1 -P 4 "$@" 2> /dev/null
true
"""
_FORGET = 'cd -- "$1" && xargs -r -d "\\n" rm -f --'
_MAKE_ROOM = r"""
mkdir -p -- "$1" && cd -- "$1" || exit
shift
[ $# = 0 ] || mkdir -p -- "$@"
for folder in .incoming-*; do
  for kept do [ "$folder" != "$kept" ] || continue 2; done
  rm -rf -- "$folder"
done
"""
_PUBLISH = r"""
set -e
cd -- "$1"
cat > ".incoming-$2/.$manifest"
# who sends it may be killed before its end
[ "$(stat -c %s -- ".incoming-$2/.$manifest")" = "$3" ]
find ".incoming-$2" -type f -exec sync -d -- {} +
mv -f -- ".incoming-$2/.$manifest" ".incoming-$2/$manifest"
rm -rf -- "$replaced$2"
[ ! -e "$2" ] || mv -T -- "$2" "$replaced$2"
mv -T -- ".incoming-$2" "$2"
sync -- .
rm -rf -- "$replaced$2"
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

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether it is still there."""
        return (checkpoint.path / MANIFEST).is_file()

    def broken(
        self,
        folder: Path,
        files: Mapping[str, Facts],
        arrival: Arrival,
        advance: Callable[[int], None],
    ) -> dict[str, str]:
        """Path and fault of each file that is not as its manifest says; they are deleted."""
        faults = broken_on_arrival(folder, files, arrival, advance)
        for name in faults:
            (folder / name).unlink(missing_ok=True)
        return faults

    def damaged(self, folder: Path, files: Mapping[str, Facts]) -> dict[str, str]:
        """Path and fault of each file that is not as its manifest says; all are left alone."""
        return broken_files(folder, files, lambda _: None)

    def make_room(self, run: RunDir, kept: Collection[str]) -> None:
        """Make the run's folders; delete the beginnings of copies that nobody goes on with."""
        try:
            for name in kept:
                (run.checkpoints_folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SoractlError(
                f"{error.filename}: {error.strerror}", exit_code=ExitCode.FAILED
            ) from None
        for folder in run.checkpoints_folder.glob(f"{INCOMING}*"):
            if folder.name not in kept:
                shutil.rmtree(folder)

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
        return as_runs(self.place.folder / name for name in names)

    def look(self, run: RunDir) -> Seen:
        """The run's checkpoints."""
        return parse_look(run, self._ask(_LOOK, run.path))

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether it is still there."""
        return self._ask(_HOLDS, checkpoint.path).strip() == "yes"

    def broken(
        self,
        folder: Path,
        files: Mapping[str, Facts],
        arrival: Arrival,
        advance: Callable[[int], None],
    ) -> dict[str, str]:
        """Path and fault of each file that is not as its manifest says; they are deleted."""
        arrival.wait()
        faults = self.damaged(folder, files)
        if faults:
            self._ask(_FORGET, folder, stdin="".join(f"{name}\n" for name in faults))
        return faults

    def damaged(self, folder: Path, files: Mapping[str, Facts]) -> dict[str, str]:
        """Path and fault of each file that is not as its manifest says; all are left alone."""
        names = "".join(f"./{name}\n" for name in files)
        told = self._ask(_SUMS, folder, stdin=names, deadline_s=_patience(files))
        found = {name: checksum for checksum, name in _CHECKSUM.findall(told)}
        faults = {name: "cannot be read" for name in files if name not in found}
        for name, checksum in found.items():
            if files[name].get("sha256", checksum) != checksum:
                faults[name] = "has another checksum than its manifest"
        return faults

    def make_room(self, run: RunDir, kept: Collection[str]) -> None:
        """Make the run's folders; delete the beginnings of copies that nobody goes on with."""
        self._ask(_MAKE_ROOM, run.checkpoints_folder, *kept)

    def publish(self, run: RunDir, manifest: Manifest) -> None:
        """Give an incoming folder its manifest and its final name."""
        folder, text = run.checkpoints_folder, json.dumps(asdict(manifest), indent=2) + "\n"
        lock = ("flock", "-w", str(LOCK_WAIT_S), "-E", str(LOCKED), str(folder / LOCK))
        words = folder, manifest.name, str(len(text.encode()))
        request = _request(_PUBLISH, *words, stdin=text)
        request = replace(request, argv=(*lock, *request.argv))
        self._answer(request, _patience(manifest.files))

    def _ask(
        self, script: str, *words: str | Path, stdin: str = "", deadline_s: float = ASK_S
    ) -> str:
        return self._answer(_request(script, *words, stdin=stdin), deadline_s).stdout

    def _answer(self, request: Request, deadline_s: float) -> NodeResult:
        result = self._remote(self.place.node, request, deadline_s)
        if result.fault:
            raise unreachable(self.place, str(result.fault))
        if result.exit_code == LOCKED:
            raise locked(self.place)
        if not result.ok:
            raise SoractlError(f"{self.place}: {result.reason}", exit_code=ExitCode.FAILED)
        return result


End = Here | There


def unreachable(place: Place, why: str) -> SoractlError:
    """The place cannot be asked, or was lost."""
    return SoractlError(f"{place.node.name}: {why}", exit_code=ExitCode.SOME_UNREACHABLE)


def locked(place: Place) -> SoractlError:
    """Another copy writes there."""
    return SoractlError(
        f"another sync of this run is at work on {place}", exit_code=ExitCode.REFUSED
    )


def incoming_path(run: RunDir, manifest: Manifest) -> Path:
    """Where a checkpoint of a run lies until it is whole."""
    return run.checkpoints_folder / f"{INCOMING}{manifest.name}"


def parse_look(run: RunDir, told: str) -> Seen:
    """What the node said about a run's checkpoints."""
    complete: list[Checkpoint] = []
    incomplete: dict[str, str] = {}
    for part in re.split(r"^checkpoint ", told, flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        found = _judge(run.checkpoints_folder / name, lines)
        if isinstance(found, Checkpoint):
            complete.append(found)
        else:
            incomplete[name] = found.reason
    complete.sort(key=lambda checkpoint: checkpoint.manifest.global_step)
    return Seen(tuple(complete), incomplete)


def _judge(path: Path, lines: Sequence[str]) -> Checkpoint | Incomplete:
    files = [line.split(" ", 2) for line in lines if line.startswith("file ")]
    manifests = [line.removeprefix("manifest ") for line in lines if line.startswith("manifest ")]
    if not manifests:
        return Incomplete(path, f"no {MANIFEST}")
    try:
        manifest = parse_manifest(manifests[0])
    except ValueError as error:
        return Incomplete(path, str(error))
    missing = missing_file(manifest, {name: int(size) for _, size, name in files})
    return Incomplete(path, missing) if missing else Checkpoint(path, manifest)


def _request(script: str, *words: str | Path, stdin: str = "") -> Request:
    return Request(("sh", "-c", f"{_CONTRACT}\n{script}", "sh", *map(str, words)), stdin)


def _patience(files: Mapping[str, Facts]) -> float:
    return ASK_S + total_bytes(files) / _SLOWEST_READ_BYTES_PER_S
