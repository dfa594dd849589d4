"""`python -m tests.kills.eval_kills [--kills 200] [--seed N] [--servers 2]`: `eval` under SIGKILL.

Servers of `eval` share a run; each has two processes that sample real videos from random weights.
All are forked from this process, which has loaded what they need, so that a kill costs a second.
Every kill hits a server, one of its samplers, or a server with both, at a moment that the seed
draws. All checkpoints have the same weights, so all videos of a prompt must be equal to the bit.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from soractl.evaluation import samplers
from soractl.evaluation.claims import Claims
from soractl.evaluation.evaluate import EvalOptions, Server
from soractl.evaluation.origin import LocalRuns
from soractl.evaluation.presets import Preset
from soractl.evaluation.publish import Publisher
from soractl.evaluation.retries import Retries
from soractl.supervise.lease import read_holder
from tests.making import publish_again, publish_random_weights
from trainer import sample
from trainer.atomic_files import describe_file, read_json
from trainer.checkpoint_dir import DRAFT
from trainer.run_dir import RunDir, create_run
from trainer.sampling.films import poster_of
from trainer.sampling.job import Choices, Worker, plan
from trainer.sampling.prompt_files import read_entries

PROMPTS = ("a cat", "a dog", "a hen", "waves")
FRAMES = "4"  # a tenth of a second each, so that kills hit all that a server does
PRESET = Preset(frames=FRAMES, resolution="144p", ratio="9:16", steps=1)
MOST_FILES = 4  # that are made between two kills
LONGEST_S = 0.2  # from the last of them to the kill
GIVE_UP_S = 20.0  # a kill does not wait for longer
READY = 20  # checkpoints that wait: claims of killed servers keep some from the others
LEASE_S, BEAT_S = 12.0, 0.5  # beats come late where the machine is busy


class ForkedConversation:
    """A sampling process as `soractl.remote.local.Conversation` has it, without loading torch."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _serve_on(theirs)
            finally:  # also after an error: else it would go on as a second server
                os._exit(0)
        theirs.close()
        self._lines = ours.makefile("rw", encoding="utf-8")
        ours.close()

    def send(self, line: str) -> None:
        """Ask; nothing happens if the process has ended."""
        try:
            self._lines.write(f"{line}\n")
            self._lines.flush()
        except OSError:
            pass

    def answers(self) -> Iterator[str]:
        """The lines of the process, until it ends."""
        try:
            yield from self._lines
        except OSError:
            return

    def killed_by(self) -> int:
        """By the kill; nobody reads the reason."""
        return signal.SIGKILL

    def last_words(self) -> str:
        """Nothing: it was killed."""
        return ""


def _serve_on(conversation: socket.socket) -> None:
    """Sample what the other end asks for, until it is gone."""
    for number in (0, 1):
        os.dup2(conversation.fileno(), number)
    os.closerange(3, 1024)  # or it would keep another one's conversation open
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sample.main(["--serve"])


@contextmanager
def _forked_sampler(_: object) -> Iterator[samplers.Sampler]:
    program = ForkedConversation()
    try:
        yield samplers.Sampler(program)  # type: ignore[arg-type]  # all that it uses is there
    finally:
        with suppress(OSError):  # a request that a killed process did not read
            program._lines.close()
        os.kill(program.pid, signal.SIGKILL)
        os.waitpid(program.pid, 0)


def serve(run: RunDir, prompts: Path) -> None:
    """One server in this process, until it is killed."""
    setattr(samplers.Sampler, "on", _forked_sampler)  # noqa: B010 - mypy knows another type
    origin = LocalRuns([run])
    options = EvalOptions("toy", PRESET, prompts)
    publisher = Publisher(origin, "ema")
    claims = Claims(lease_s=LEASE_S, beat_s=BEAT_S)
    with Server(options, origin, publisher, {}, lambda _: None, claims) as server:
        server._devices = [None, None]  # two processes that sample
        server.retries = Retries(lambda: 100 * time.monotonic())  # waits of a third of a second
        while True:
            for _ in server.round():
                pass
            time.sleep(0.05)


def load(run: RunDir, prompts: Path, folder: Path) -> Worker:
    """Networks in memory, as every sampling process has them after its fork."""
    (checkpoint,) = run.checkpoints()
    choices = Choices(frames=FRAMES, resolution="144p", steps=1)
    worker = Worker()
    worker.perform(plan(checkpoint, read_entries(prompts), choices, folder)[:1])
    return worker


class Rules:
    """What must hold after every kill."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.sums: dict[str, str] = {}  # of each prompt's file
        self.made: dict[Path, tuple[int, int]] = {}  # (inode, time) of what counts

    def check(self) -> None:
        """No half video, none made twice, no result without its videos."""
        for folder in self.run.evaluations.glob("toy/*"):
            for video in folder.glob("*.mp4"):
                if not video.name.startswith(DRAFT):
                    found = describe_file(video)["sha256"]
                    assert self.sums.setdefault(video.name, found) == found, f"{video}: half"
            for manifest in folder.glob("sample_*.json"):
                self._whole(manifest)
            if (result := folder / "result.json").exists():
                names = [video["name"] for video in read_json(result)["videos"]]
                assert names == [f"sample_{number:04d}.mp4" for number in range(len(PROMPTS))]
                assert all((folder / name).exists() for name in names), f"{result}: missing"
                self._once(result)

    def _whole(self, manifest: Path) -> None:
        video = manifest.with_suffix(".mp4")
        listed = read_json(manifest)["video"]
        assert listed == {"name": video.name, **describe_file(video)}, f"{video} is another"
        for file in (manifest, video, poster_of(video)):
            self._once(file)

    def _once(self, file: Path) -> None:
        facts = file.stat()
        seen = (facts.st_ino, facts.st_mtime_ns)
        assert self.made.setdefault(file, seen) == seen, f"{file} was made twice"


class Kills:
    """A run, the servers that sample it, and their end."""

    def __init__(self, folder: Path, draws: random.Random, servers: int) -> None:
        self.run = create_run(folder, "smoke")
        self.first = publish_random_weights(self.run)
        self.prompts = folder / "prompts.txt"
        self.prompts.write_text("\n".join(PROMPTS) + "\n")
        worker = load(self.run, self.prompts, folder / "first")
        setattr(sample, "Worker", lambda: worker)  # noqa: B010 - mypy knows a class
        self.rules, self.draws = Rules(self.run), draws
        self.moments: Counter[str] = Counter()  # that kills hit
        self.steps = 1
        self.servers = [self._start() for _ in range(servers)]

    def _start(self) -> int:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.environ["OMP_NUM_THREADS"] = "1"
            try:
                serve(self.run, self.prompts)
            finally:
                os._exit(1)
        return pid

    def provide(self) -> None:
        """A few checkpoints wait, so that no server is idle when it is killed."""
        done = len(self.run.evaluation_results())
        while self.steps < done + READY + len(self.servers):
            self.steps += 1
            publish_again(self.run, self.first, self.steps)

    def kill(self) -> str:
        """One kill; returns what was hit."""
        number = self.draws.randrange(len(self.servers))
        server = self.servers[number]
        self._wait_for(server)
        self.moments[self._moment(server)] += 1
        children = _children(server)
        what = self.draws.choice(("server", "sampler", "both"))
        if what == "sampler" and children:
            os.kill(self.draws.choice(children), signal.SIGKILL)
            return what
        for pid in (*children, server) if what == "both" else (server,):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(server, 0)
        self.servers[number] = self._start()
        return what

    def _wait_for(self, server: int) -> None:
        """Return amid its work: after a draw of files and a moment, however slow the machine is."""
        give_up_s = time.monotonic() + GIVE_UP_S
        before, wanted = self._made(), self.draws.randint(0, MOST_FILES)
        while time.monotonic() < give_up_s and (
            self._made() < before + wanted or self._moment(server) == "no claim"
        ):
            time.sleep(0.03)
        time.sleep(self.draws.uniform(0, LONGEST_S))

    def _made(self) -> int:
        """How many videos and results there are."""
        names = ("sample_*.json", "result.json")
        return sum(len(list(self.run.evaluations.glob(f"toy/*/{name}"))) for name in names)

    def _moment(self, server: int) -> str:
        """What a server does, by the folder that it has claimed."""
        for claim in self.run.evaluations.glob("toy/*/.claim"):
            holder = read_holder(claim)
            if holder is not None and holder.pid == server:
                if (claim.parent / "result.json").exists():
                    return "its gallery"
                made = len(list(claim.parent.glob("sample_*.json")))
                ways = {0: "its first videos", len(PROMPTS): "its result"}
                return ways.get(made, "its other videos")
        return "no claim"

    def finish(self) -> None:
        """All that was published is sampled in the end, without any more kills."""
        give_up_s = time.monotonic() + 300
        while len(self.run.evaluation_results()) < self.steps or not self._is_shown():
            assert time.monotonic() < give_up_s, "checkpoints are missing, or not in the gallery"
            os.kill(self.servers[0], 0)
            time.sleep(0.1)
        self.end()
        self.rules.check()
        drafts = list(self.run.evaluations.glob(f"toy/*/{DRAFT}*"))
        assert drafts == [], drafts

    def _is_shown(self) -> bool:
        """All videos of all checkpoints are in the gallery, which is written after the result."""
        page = json.loads(self.run.gallery_data.read_text()[len("showGallery(") : -3])
        columns = page["runs"][0]["presets"]["toy"]["checkpoints"]
        steps = [column["step"] for column in columns]
        return steps == list(range(1, self.steps + 1)) and all(
            all(column["videos"]) for column in columns
        )

    def end(self) -> None:
        """End the servers."""
        for server in self.servers:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        self.servers = []


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # threads do not outlive a fork
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = Kills(Path(folder), random.Random(options.seed), options.servers)
        hit: dict[str, int] = {}
        try:
            for _ in range(options.kills):
                kills.provide()
                what = kills.kill()
                hit[what] = hit.get(what, 0) + 1
                kills.rules.check()
            kills.finish()
        finally:
            kills.end()
        videos = len(PROMPTS) * kills.steps
    seconds = time.monotonic() - began_s
    sys.stdout.write(
        f"{options.kills} kills ({hit}, amid {dict(kills.moments)}) in {seconds:.0f} s, seed "
        f"{options.seed}: {kills.steps} checkpoints, {videos} videos, none half, none twice, none "
        "missing\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
