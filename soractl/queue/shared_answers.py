"""Answers of `squeue` that all commands of a user share, so that the controller is asked seldom."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from soractl.files.home import in_home
from soractl.files.lock import locked
from trainer.atomic_files import file_time

WAIT_S = 40.0  # for another command's question


@dataclass(frozen=True)
class SharedAnswers:
    """A file of this user on this machine; without one each command asks for itself."""

    path: Path
    for_s: float
    clock: Callable[[Path], float | None] = file_time  # which dates the files of a folder

    def get(self, ask: Callable[[], str]) -> str:
        """An answer that is at most `for_s` seconds old; else `ask()`, one command at a time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_suffix(".lock"), "squeue is being asked", wait_s=WAIT_S):
                known = self._known()
                return self._kept(ask()) if known is None else known
        except OSError:  # a home that cannot be written to
            return ask()

    def _known(self) -> str | None:
        with suppress(FileNotFoundError):
            answered_s, now_s = self.path.stat().st_mtime, self.clock(self.path.parent)
            if now_s is not None and 0 <= now_s - answered_s < self.for_s:
                return self.path.read_text()
        return None

    def _kept(self, answer: str) -> str:
        draft = self.path.with_suffix(".draft")
        draft.write_text(answer)
        draft.replace(self.path)
        return answer


def answers_file(environ: Mapping[str, str]) -> Path:
    """The file for the Slurm that this environment reaches."""
    squeue = shutil.which("squeue", path=environ.get("PATH"))
    cache = environ.get("XDG_CACHE_HOME") or in_home(Path("~/.cache"))
    slurm = f"{environ.get('SLURM_CONF', '')} {squeue} {os.getuid()}"
    return Path(cache) / "soractl" / f"squeue-{hashlib.sha256(slurm.encode()).hexdigest()[:8]}"
