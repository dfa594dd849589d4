"""Evidence of a hang, taken before anything is done about it, in `attempts/N/evidence/TIME/`.

verdict.json          the verdict, links that lose packets, clocks, what NCCL RAS says
look-1/rank-3.json    each rank's collectives and stacks, twice
stacks-1.json         stacks of all ranks and loader workers from outside, twice
NODE.txt              nvidia-smi, kernel messages, disks, connections
ras.json              the answer of NCCL RAS, where there are GPUs
manifest.json         the files and their sizes, written last: without it the folder is cut off
"""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from soractl.cluster import nccl_ras
from soractl.diagnosis import node_facts
from soractl.diagnosis.culprit import Verdict, shown
from soractl.diagnosis.examination import Examination, examine
from soractl.diagnosis.flight_recorder import Look
from soractl.diagnosis.node_facts import Link, NodeFacts
from soractl.diagnosis.stacks import Stacks, take
from soractl.health.clock import Measured
from soractl.remote.fan_out import run_everywhere
from soractl.remote.nodes import Node
from soractl.remote.requests import Remote, Request
from soractl.remote.scripts import script
from soractl.runs.record import AttemptRecord
from trainer.atomic_files import RunDirError, folder_time, read_json, write_json
from trainer.run_dir import AttemptDir, RunDir

MANIFEST = "manifest.json"
RAS_ADDRESS = "127.0.0.1:28028"
RAS_S = 8.0
STACKS_PAUSE_S = 1.0


@dataclass(frozen=True)
class Evidence:
    """Looks that were taken, and the folder that holds them."""

    folder: Path
    examination: Examination
    stacks: tuple[Stacks, Stacks]
    facts: tuple[NodeFacts, ...]
    offsets: Mapping[str, Measured]  # of clocks, in seconds that a node is ahead
    ras: tuple[nccl_ras.Communicator, ...] | None
    seconds: float  # that taking it took
    step: int | None = None  # the last finished one when it was taken

    @property
    def verdict(self) -> Verdict:
        """Rank that is waited for; one that gave no answer is read from outside."""
        found = self.examination.verdict
        if found.where or not found.names_somebody:
            return found
        stacks = [one for one in self.stacks[1].processes if one.rank == found.ranks[0]]
        main = [s.frames for one in stacks if one.role == "rank" for s in one.stacks if s.is_main]
        return replace(found, where=shown(main[0])) if main else found

    @property
    def links(self) -> list[Link]:
        """Links that lose packets."""
        return node_facts.bad_links(self.facts)

    def as_json(self) -> dict[str, Any]:
        """As `verdict.json` says it."""
        return {
            "folder": str(self.folder),
            "verdict": verdict_json(self.verdict),
            "links": [asdict(link) for link in self.links],
            "clocks": {node: asdict(offset) for node, offset in self.offsets.items()},
            "ras_lagging": [
                {"communicator": one.hash, "rank": rank.rank, "host": rank.host, "pid": rank.pid}
                for one in self.ras or ()
                for rank in one.lagging
            ],
            "notes": list(self.stacks[1].notes),
            "faults": {one.node: str(one.fault) for one in self.facts if one.fault},
            "seconds": round(self.seconds, 2),
            "step": self.step,
        }


def collect(run: RunDir, attempt: AttemptDir, record: AttemptRecord, remote: Remote) -> Evidence:
    """Take all evidence at once; what a node does not give is missing in it, never an error."""
    began_s = time.monotonic()
    folder = _new_folder(attempt)
    with ThreadPoolExecutor(4, "evidence") as pool:
        examining = pool.submit(examine, attempt, record, remote, most_looks=3)
        facts = pool.submit(node_facts.ask, record.nodes, run.path, remote)
        ras = pool.submit(ask_ras, record.nodes, remote)
        offsets = node_facts.ask_offsets(record.nodes, remote)

        def own() -> Look:
            return examining.result().second

        first = take(attempt, record, remote, own, flags=False)
        time.sleep(STACKS_PAUSE_S)
        stacks = first, take(attempt, record, remote, own)
    answer, communicators = ras.result()
    found = Evidence(
        *(folder, examining.result(), stacks, (*facts.result(),), offsets, communicators),
        seconds=time.monotonic() - began_s,
        step=step_of(run, attempt),
    )
    _write(found, answer)
    return found


def step_of(run: RunDir, attempt: AttemptDir) -> int | None:
    """The last step that an attempt finished, by its heartbeat."""
    with suppress(OSError, RunDirError, KeyError, TypeError, ValueError):
        beat = read_json(run.heartbeat)
        return int(beat["global_step"]) if beat["attempt"] == attempt.number else None
    return None


def ask_ras(
    nodes: Sequence[Node], remote: Remote
) -> tuple[str, tuple[nccl_ras.Communicator, ...] | None]:
    """The answer of NCCL RAS on the first node that gives one: it speaks for all."""
    text = f"address={RAS_ADDRESS}\n" + script("soractl.cluster", "nccl_ras.sh")
    request = Request(("bash", "-s"), text)
    for result in run_everywhere(nodes, lambda _: request, remote, deadline_s=RAS_S):
        if (found := nccl_ras.parse(result.stdout)) is not None:
            return result.stdout, found
    return "", None


def verdict_json(found: Verdict) -> dict[str, Any]:
    """A verdict for programs."""
    return {**asdict(found), "kind": str(found.kind), "text": str(found)}


def _new_folder(attempt: AttemptDir) -> Path:
    attempt.evidence.mkdir(exist_ok=True)
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(folder_time(attempt.evidence)))
    for number in range(1, 100):
        folder = attempt.evidence / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("a hundred folders in one second")


def _write(found: Evidence, ras: str) -> None:
    files: dict[str, Mapping[str, Any]] = {"verdict.json": found.as_json()}
    for number, look in enumerate((found.examination.first, found.examination.second), 1):
        files |= {f"look-{number}/rank-{rank}.json": raw for rank, raw in look.raw.items()}
    for number, stacks in enumerate(found.stacks, 1):
        processes = [asdict(process) for process in stacks.processes]
        files[f"stacks-{number}.json"] = {"processes": processes, "notes": list(stacks.notes)}
    for name, values in files.items():
        path = found.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values))
    for one in found.facts:
        text = "".join(f"=== {name}\n{part}" for name, part in one.texts.items())
        (found.folder / f"{one.node}.txt").write_text(text or f"{one.fault}\n")
    if ras:
        (found.folder / "ras.json").write_text(ras)
    sizes = {
        str(path.relative_to(found.folder)): path.stat().st_size
        for path in sorted(found.folder.rglob("*"))
        if path.is_file()
    }
    write_json(
        found.folder / MANIFEST,
        {
            "taken_unix_s": folder_time(found.folder),
            "seconds": round(found.seconds, 2),
            "files": sizes,
        },
    )
