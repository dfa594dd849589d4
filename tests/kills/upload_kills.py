"""`python -m tests.kills.upload_kills [--kills 50] [--seed N]`: the way to W&B under SIGKILL.

Three processes take their turns on one run: a training that logs to W&B offline, an evaluation that
publishes videos, and, while no training runs, the program that sends what is left. Each kill hits
one of them at a moment that the seed draws. In the end every video must stand exactly once in the
offline files of all attempts together, each of which is of one W&B run.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from soractl.evaluation.find_new import Item
from soractl.evaluation.origin import LocalRuns
from soractl.evaluation.publish import Publisher
from tests.making import make_manifest
from trainer.atomic_files import describe_file, write_json
from trainer.checkpoint_dir import Checkpoint
from trainer.config import load_stage
from trainer.metrics.sinks import WandbSink
from trainer.metrics.wandb_files import media_of, offline_files
from trainer.run_dir import RunDir, create_run
from trainer.sampling.films import write_poster, write_video
from trainer.settings import dump
from trainer.upload import send_rest

NAMES = ("cat", "dog")
PER_ATTEMPT = 2  # checkpoints
TRAINED_S = 4.0  # at most, until a training is killed or ends
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["wandb", "trainer.upload", "soractl.evaluation.publish"])


def train(run: RunDir, seconds: float) -> None:
    """An attempt: rows of a training for a while, then its end."""
    os.environ["WANDB_SILENT"] = "true"
    sink = WandbSink(run, "test", {})
    run.heartbeat.touch()
    end_s = time.monotonic() + seconds
    step = 0
    while time.monotonic() < end_s:
        step += 1
        sink.write({"loss": 1 / step}, step)
        time.sleep(0.05)
    sink.close()
    write_json(run.attempts()[-1].exit, {})


def evaluate(run: RunDir, film: Path) -> None:
    """Checkpoint after checkpoint gets its videos, from the first that has none."""
    publisher = Publisher(LocalRuns([run]), "ema")
    step = 0
    while True:
        if len(run.evaluation_results()) >= PER_ATTEMPT * len(run.attempts()):
            time.sleep(0.05)
            continue
        step += 100
        if run.evaluation_result("toy", step).exists():
            continue
        checkpoint = Checkpoint(run.checkpoints_folder / str(step), make_manifest(step))
        item = Item(run, checkpoint, "toy", "0")
        tasks = [_task(item.folder / f"{name}.mp4", film, name) for name in NAMES]
        publisher.publish(item, tasks)
        time.sleep(0.3)


def _task(video: Path, film: Path, name: str) -> dict[str, object]:
    video.parent.mkdir(parents=True, exist_ok=True)
    draft = video.with_name(f".draft-{video.name}")
    draft.write_bytes(film.read_bytes())
    draft.replace(video)
    return {"file": str(video), "text": f"a {name}", "seed": 1, "height": 32, "width": 32}


def upload(run: RunDir) -> None:
    """What `soractl eval` starts once no training runs."""
    os.environ["WANDB_SILENT"] = "true"
    send_rest(run)


class Kills:
    """A run, the processes that write to it, and their ends."""

    def __init__(self, folder: Path, draws: random.Random) -> None:
        self.run, self.draws = create_run(folder, "smoke"), draws
        settings = load_stage("smoke", ["log.wandb=true"]).config
        write_json(self.run.config_json, dump(settings))
        self.film = folder / "film.mp4"
        film = torch.randint(0, 255, (8, 32, 32, 3), dtype=torch.uint8)
        write_video(film, self.film, 24)
        write_poster(film, folder / "film.png")
        self.hit: Counter[str] = Counter()
        self.evaluation = self._start(evaluate, self.film)

    def _start(self, work: Callable[..., None], *arguments: object) -> Any:
        process = PROCESSES.Process(target=work, args=(self.run, *arguments))
        process.start()
        return process

    def kill_one(self) -> None:
        """A training, an upload after it, and one kill of one of the three."""
        victim = self.draws.choice(("training", "training", "evaluation", "upload"))
        attempt = self.run.new_attempt()
        self.run.heartbeat.unlink(missing_ok=True)
        training = self._start(train, TRAINED_S if victim == "training" else 1.0)
        if victim == "training":
            is_open = self.draws.random() < 0.8  # most kills hit a session that is open
            while is_open and training.is_alive() and not self.run.heartbeat.exists():
                training.join(0.1)
            self._kill(training, TRAINED_S)
        if victim == "evaluation":
            self._kill(self.evaluation, 1.0)
            self.evaluation = self._start(evaluate, self.film)
        training.join()
        write_json(attempt.exit, {})  # as whoever follows a training does
        if victim == "upload" or self.draws.random() < 0.3:
            sending = self._start(upload)
            if victim == "upload":
                self._kill(sending, TRAINED_S)
            sending.join()
        self.hit[victim] += 1

    def _kill(self, process: Any, within_s: float) -> None:
        process.join(self.draws.uniform(0, within_s))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()

    def finish(self) -> tuple[int, int]:
        """(videos, offline files), once nothing is left to send."""
        self.evaluation.kill()
        self.evaluation.join()
        for _ in range(2):
            sending = self._start(upload)
            sending.join()
            assert sending.exitcode == 0
        answer = send_rest(self.run)
        assert answer["why"] == "all are there", answer
        files = offline_files(self.run.path / "wandb")
        wandb_id = self.run.wandb_id.read_text()
        assert {file.stem for file in files} == {f"run-{wandb_id}"}
        found = Counter(media for file in files for media in media_of(file))
        steps = [int(path.parent.name) for path in self.run.evaluation_results()]
        wanted = Counter((f"eval_toy/{name}", step) for step in steps for name in NAMES)
        assert found == wanted, {"twice": found - wanted, "missing": wanted - found}
        whole = describe_file(self.film)
        copies = list(self.run.path.glob("wandb/offline-run-*/files/media/videos/**/*.mp4"))
        assert all(describe_file(copy) == whole for copy in copies), "half an mp4"
        return sum(found.values()), len(files)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = Kills(Path(folder), random.Random(options.seed))
        try:
            for _ in range(options.kills):
                kills.kill_one()
            videos, files = kills.finish()
        finally:
            kills.evaluation.kill()
    seconds = time.monotonic() - began_s
    sys.stdout.write(
        f"{options.kills} kills ({dict(kills.hit)}) in {seconds:.0f} s, seed {options.seed}: "
        f"{videos} videos, each once in {files} offline files of one W&B run\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
