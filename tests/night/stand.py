"""The stand of a night: a cluster of nodes, and one supervised run of the smoke model on it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soractl.runs.events import Event, read_events
from soractl.runs.record import read_record
from soractl.supervise.lease import Holder, read_holder
from soractl.supervise.quarantine import lift
from trainer.run_dir import AttemptDir, RunDir

REPOSITORY = Path(__file__).parent.parent.parent
CLUSTER_SH = REPOSITORY / "tests" / "cluster" / "cluster.sh"
HOOKS = Path(__file__).parent / "hook", REPOSITORY / "tests" / "planter" / "hook"
CLOCK = "/run/clock"  # on a node: by how much the clock of its ranks is off, such as +300s
WAIT_S = 400.0
SETTINGS = ("log.every_steps=1", "checkpoint.every_steps=4", "epochs=500", "log.tensorboard=false")
# Clips are read through a server of the node's own that a night can stop.
_PREPARE = 'echo +0s > "$5"; setsid "$1" "$2" "$3" "$4" < /dev/null > /dev/null 2>&1'


class Stand:
    """Nodes of a cluster of their own, one rank each, and the one run on them."""

    def __init__(self, folder: Path, *, nodes: int = 3, spares: int = 0) -> None:
        self.folder = folder
        self.run = RunDir(folder / "runs" / "001-smoke")
        self.hosts = range(1, nodes + spares + 1)
        self._spares = spares
        self._environ = {**os.environ, "SORACTL_CLUSTER": str(folder / "cluster")}

    def __enter__(self) -> "Stand":
        self.cluster("up", str(len(self.hosts)))
        hostfiles = self.folder / "cluster" / "hostfiles"
        lines = (hostfiles / "nodes.txt").read_text().splitlines()
        first_spare = len(lines) - self._spares
        lines[first_spare:] = [f"{line} spare=true" for line in lines[first_spare:]]
        (hostfiles / "nodes.txt").write_text("\n".join(lines) + "\n")
        text = (hostfiles / "nodes.toml").read_text().replace("per_node = 2", "per_node = 1")
        text += "".join(f'{name} = "{value}"\n' for name, value in self.environment().items())
        text += "[supervise]\nmin_nodes = 2\nmost_starts = 99\n"
        (hostfiles / "nodes.toml").write_text(text)
        for number in self.hosts:
            self.prepare(number)
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster("down")

    def environment(self) -> dict[str, object]:
        """More variables for the ranks."""
        return {}

    def settings(self) -> Sequence[str]:
        """More settings of the run."""
        return ()

    def prepare(self, number: int) -> None:
        """What a node needs once it is switched on."""

    def launch(self, planned: int) -> None:
        """Start the run, supervised."""
        settings = (*SETTINGS, *self.settings(), f"trainer.max_steps={planned}")
        self.soractl(
            *("launch", "smoke", "--supervise", "--detach"),
            *(word for setting in settings for word in ("--set", setting)),
        )

    def cluster(self, *argv: str) -> str:
        """`cluster.sh ARGV`: its output."""
        done = subprocess.run(
            [str(CLUSTER_SH), *argv],
            env=self._environ,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def soractl(self, *argv: str) -> str:
        """A command on the head node."""
        runs = ("--runs", str(self.run.path.parent))
        return self.cluster("head", sys.executable, "-m", "soractl.cli", *argv, *runs)

    def json(self, *argv: str) -> Any:
        """What a command prints for programs."""
        return json.loads(self.soractl(*argv, "--json"))

    def on_node(self, number: int, script: str, *argv: str) -> None:
        """A script on a node, without ssh."""
        self.cluster("node", str(number), "bash", "-c", script, "bash", *argv)

    def switch_on(self, number: int) -> None:
        """A node that was switched off, and a person who says that it is mended."""
        self.cluster("on", str(number))
        self.prepare(number)
        lift(self.run.path.parent, f"n{number}")

    def wait(self, condition: Callable[[], object], seconds: float = WAIT_S) -> None:
        """Until a condition holds; AssertionError with the last events when it never does."""
        end = time.monotonic() + seconds
        while not condition():
            last = [f"{e.kind} {e.node or ''} {e.text}" for e in self.events()[-8:]]
            assert time.monotonic() < end, "\n".join(["waited in vain; the last events:", *last])
            time.sleep(0.2)

    def events(self) -> list[Event]:
        """The events so far."""
        return read_events(self.run)

    def holder(self) -> Holder | None:
        """The supervisor that acts, or the last one that did."""
        return read_holder(self.run.supervisor)

    def step(self) -> tuple[int, int]:
        """Attempt and step of the last heartbeat; (0, 0) before the first."""
        try:
            beat = json.loads(self.run.heartbeat.read_text())
        except (OSError, ValueError):
            return 0, 0
        return int(beat["attempt"]), int(beat["global_step"])

    def newest(self) -> int:
        """Step of the newest complete checkpoint."""
        return max(self.run.steps_of_saves()[1], default=0)

    def attempt(self) -> AttemptDir:
        """The newest attempt."""
        return self.run.attempts()[-1]

    def nodes(self) -> Sequence[int]:
        """Numbers of the nodes that train now, by rank."""
        return [int(node.name[1:]) for node in read_record(self.attempt()).nodes]

    def trains(self, attempt: int) -> None:
        """Wait until an attempt, or a later one, has saved and made a step since.

        A run that fails before its next checkpoint three times would be given up.
        """
        self.wait(lambda: self.step()[0] >= attempt)
        begun = self.step()[1]
        self.wait(lambda: self.newest() > begun and self.step()[1] > self.newest())


class FragileStand(Stand):
    """A stand whose clips, clocks and collectives can be broken, and whose steps can be slow."""

    @property
    def plants(self) -> Path:
        """The folder in which ranks find what to do wrong."""
        return self.folder / "plants"

    def __enter__(self) -> "FragileStand":
        self.plants.mkdir()
        clips, mount = REPOSITORY / "data" / "smoke", self.folder / "data"
        for folder in (mount, self.folder / "served"):
            shutil.copytree(clips, folder)
            table = (folder / "clips.csv").read_text().replace(f"{clips}/", f"{mount}/")
            (folder / "clips.csv").write_text(table)  # its paths are absolute
        super().__enter__()
        return self

    def environment(self) -> dict[str, object]:
        """The planter, and clocks that a file puts wrong."""
        import libfaketime  # only nights need it

        library = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
        return {
            "PLANT_FOLDER": self.plants,
            "PYTHONPATH": ":".join(map(str, (*HOOKS, REPOSITORY))),
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": CLOCK,
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def settings(self) -> Sequence[str]:
        """Clips are read where each node has mounted them."""
        return (f"data.path={self.folder / 'data' / 'clips.csv'}",)

    def prepare(self, number: int) -> None:
        """A right clock, and a server of clips."""
        server = Path(__file__).with_name("pass_through.py")
        served, mount = self.folder / "served", self.folder / "data"
        words = (sys.executable, server, served, mount, CLOCK)
        self.on_node(number, _PREPARE, *map(str, words))

    def launch(self, planned: int) -> None:
        """Start the run; its steps take a second until `hurry`."""
        (self.plants / "pace").touch()
        super().launch(planned)

    def hurry(self) -> None:
        """Steps take no longer than they must from now on."""
        (self.plants / "pace").unlink()
