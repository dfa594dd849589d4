"""A folder of runs on a node: each operation is a program that runs there."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from soractl.checkpoints.verification import Facts, TransferEvent, total_bytes
from soractl.errors import ExitCode, SoractlError
from soractl.remote.requests import NodeResult, Remote, Request
from soractl.remote.scripts import script
from soractl.sync.locations import (
    LOCK,
    LOCKED,
    Location,
    locked,
    under_lock,
    unreachable,
)
from soractl.sync.stores import CheckpointListing
from trainer.checkpoint_dir import ANY_CHECKPOINT, REPLACED, Checkpoint, Incomplete
from trainer.manifest import MANIFEST, Manifest, missing_file, parse_manifest
from trainer.run_dir import RunDir, as_runs

ASK_S = 60.0
_SLOWEST_READ_BYTES_PER_S = 20e6
_CHECKSUM = re.compile(r"^([0-9a-f]{64}) [ *]\./(.*)$", re.MULTILINE)

# the names that the programs share with the trainer
_CONTRACT = f"manifest={MANIFEST} any_checkpoint='{ANY_CHECKPOINT}' replaced={REPLACED}"
_LIST_RUNS = 'cd -- "$1" 2>/dev/null || exit 0; for d in */; do echo "${d%/}"; done'
_MARKS = """cd -- "$1" 2>/dev/null || exit 0
printf '%s\\n' */
stat -c '%n %i %y' -- "$2"/checkpoints/$any_checkpoint/$manifest 2>/dev/null
true"""
_HOLDS = f'test ! -f "$1/{MANIFEST}" || echo yes'
_DELETE = 'cd -- "$1" && xargs -r -d "\\n" rm -f --'


class RemoteStore:
    """A folder of runs on a node."""

    def __init__(self, location: Location, remote: Remote) -> None:
        self.location = location
        self._remote = remote

    def runs(self) -> list[RunDir]:
        names = self._ask(_LIST_RUNS, self.location.folder).splitlines()
        return as_runs(self.location.folder / name for name in names)

    def list(self, run: RunDir) -> CheckpointListing:
        return parse_listing(run, self._ask(_script("list_checkpoints"), run.path))

    def marks(self, run: RunDir) -> str:
        return self._ask(_MARKS, run.path.parent, run.name)

    def holds(self, checkpoint: Checkpoint) -> bool:
        return self._ask(_HOLDS, checkpoint.path).strip() == "yes"

    def broken(
        self,
        folder: Path,
        files: Mapping[str, Facts],
        transfer: TransferEvent,
        advance: Callable[[int], None],
    ) -> dict[str, str]:
        transfer.wait()
        faults = self.damaged(folder, files)
        if faults:
            self._ask(_DELETE, folder, stdin="".join(f"{name}\n" for name in faults))
        return faults

    def damaged(self, folder: Path, files: Mapping[str, Facts]) -> dict[str, str]:
        names = "".join(f"./{name}\n" for name in files)
        printed = self._ask(
            _script("checksums"), folder, stdin=names, deadline_s=_deadline_s(files)
        )
        found = {name: checksum for checksum, name in _CHECKSUM.findall(printed)}
        faults = {name: "cannot be read" for name in files if name not in found}
        for name, checksum in found.items():
            if files[name].get("sha256", checksum) != checksum:
                faults[name] = "has another checksum than its manifest"
        return faults

    def prepare_incoming(self, run: RunDir, kept: Collection[str]) -> None:
        self._ask(_script("prepare_incoming"), run.checkpoints_folder, *kept)

    def publish(self, run: RunDir, manifest: Manifest) -> None:
        folder, text = run.checkpoints_folder, json.dumps(asdict(manifest), indent=2) + "\n"
        words = folder, manifest.name, str(len(text.encode()))
        request = _request(_script("publish"), *words, stdin=text)
        request = replace(request, argv=(*under_lock(folder / LOCK), *request.argv))
        self._answer(request, _deadline_s(manifest.files))

    def _ask(
        self, program: str, *words: str | Path, stdin: str = "", deadline_s: float = ASK_S
    ) -> str:
        return self._answer(_request(program, *words, stdin=stdin), deadline_s).stdout

    def _answer(self, request: Request, deadline_s: float) -> NodeResult:
        result = self._remote(self.location.node, request, deadline_s)
        if result.fault:
            raise unreachable(self.location, str(result.fault))
        if result.exit_code == LOCKED:
            raise locked(self.location)
        if not result.ok:
            raise SoractlError(f"{self.location}: {result.reason}", exit_code=ExitCode.FAILED)
        return result


def parse_listing(run: RunDir, answer: str) -> CheckpointListing:
    """The answer of list_checkpoints to values."""
    complete: list[Checkpoint] = []
    incomplete: dict[str, str] = {}
    for part in re.split(r"^checkpoint ", answer, flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        found = _listed(run.checkpoints_folder / name, lines)
        if isinstance(found, Checkpoint):
            complete.append(found)
        else:
            incomplete[name] = found.reason
    complete.sort(key=lambda checkpoint: checkpoint.manifest.global_step)
    return CheckpointListing(tuple(complete), incomplete)


def _listed(path: Path, lines: Sequence[str]) -> Checkpoint | Incomplete:
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


def _script(name: str) -> str:
    return script("soractl.sync", f"{name}.sh")


def _request(program: str, *words: str | Path, stdin: str = "") -> Request:
    return Request(("sh", "-c", f"{_CONTRACT}\n{program}", "sh", *map(str, words)), stdin)


def _deadline_s(files: Mapping[str, Facts]) -> float:
    return ASK_S + total_bytes(files) / _SLOWEST_READ_BYTES_PER_S
