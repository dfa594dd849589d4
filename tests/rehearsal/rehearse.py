"""`make rehearsal`: the whole curriculum, at toy width, from files as they are published.

A folder of its own gets what a real one has: PixArt-Sigma's `.pth`, the VAE and T5 in a Hugging
Face cache, tables of real clips, and stage files that add one part, `toy`, to what the shipped
stages extend. Then each step below is the command that an operator types. At the end the imports
of all processes are compared with what pyproject.toml asks for.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tests.rehearsal import imports, published
from trainer.config import load_stage
from trainer.data import smoke_clips
from trainer.model.build import build_model

REPOSITORY = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
STAGES = [f"stage{number}" for number in range(1, 8)]


@dataclass(frozen=True)
class Step:
    """A command, and what its output must hold; what the pattern takes in is shown."""

    command: str
    shows: str


def launch(stage: str, start: str, *, steps: int = 2, also: str = "") -> Step:
    """A stage that starts from `start` and ends well after a few steps."""
    command = f"soractl launch {stage} --set trainer.max_steps={steps} {also}".strip()
    return Step(command, rf"start +(.*{start}.*)\n(?s:.)*(ended well at step {steps})")


STEPS = [
    Step("soractl data merge data/OpenVid1M.csv data/MiraData.csv "
         "--out data/OpenVid1M-MiraData330k.csv", r"(\d+ rows)"),
    launch("stage1", "PixArt-Sigma-XL-2-2K-MS.pth"),
    Step("soractl resume latest --set trainer.max_steps=3", r"(ended well at step 3)"),
    launch("stage2", "001-stage1", also="--set text_encoder.clean_captions=true"),
    launch("stage3", "002-stage2"),
    launch("stage4", "003-stage3"),
    launch("stage5", "004-stage4"),
    launch("stage6", "005-stage5"),
    launch("stage7", "006-stage6"),
    Step("python -m trainer.sample latest --weights ema --frames 17 --resolution 144p "
         '--prompt rabbit', r"(007-stage7\S*), ema weights"),
    Step("soractl data encode stage7 --out features", r"(\d+ clips encoded, 0 failed)"),
    launch("stage7", "006-stage6", also="--set data.features=features"),
    Step("soractl ckpt adopt reference/epoch1-global_step300 stage3", r"(\S*009-stage3\S*)"),
    Step("soractl launch stage4 --dry-run", r"start +(.*009-stage3.*)"),
]  # fmt: skip


def main() -> None:
    """Prepare the folder, take every step, compare the imports; exit 1 at the first fault."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    say(f"rehearsal in {folder}")
    prepare(folder)
    shown(began, "published files, tables of clips, stage files")
    environment = {
        **os.environ,
        **recording(folder),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HF_HOME": str(folder / "hf"),
        "WANDB_MODE": "offline",
    }
    for step in STEPS:
        take(step, folder, environment)
    compare_imports(folder / "imports")
    say(f"all of it in {time.monotonic() - began:.0f} s")
    shutil.rmtree(folder)


def prepare(folder: Path) -> None:
    """What a stage needs before its first step."""
    clips = pd.read_csv(smoke_clips.make(REPOSITORY / "data" / "smoke"))
    (folder / "data").mkdir()
    clips[::4].to_csv(folder / "data" / "OpenVid1M.csv", index=False)
    clips[2::8].to_csv(folder / "data" / "MiraData.csv", index=False)

    published.write_pixart(folder / "pretrained_models" / "PixArt-Sigma-XL-2-2K-MS.pth")
    cache = folder / "hf" / "hub"
    published.write_vae(published.cached(cache, "hpcai-tech/OpenSora-VAE-v1.2"))
    published.write_t5(published.cached(cache, "DeepFloyd/t5-v1_1-xxl"), clips.text)

    write_stages(folder / "configs")
    (folder / "imports").mkdir()
    lines = [f'{name} = "{value}"' for name, value in recording(folder).items()]
    (folder / "hostfiles").mkdir()
    (folder / "hostfiles" / "local.toml").write_text(
        "\n".join(["ranks_per_node = 1", "[env]", *lines, ""])
    )

    model = build_model(load_stage("smoke").config)
    weights = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    reference = folder / "reference" / "epoch1-global_step300"
    published.write_reference_checkpoint(reference, weights, model.state_dict())


def write_stages(configs: Path) -> None:
    """The shipped stages with one part more, each in a file of the user's own."""
    shipped = REPOSITORY / "configs"
    (configs / "parts").mkdir(parents=True)
    shutil.copy(HERE / "toy.toml", configs / "parts")
    for stage in STAGES:
        text = (shipped / f"{stage}.toml").read_text()
        text = re.sub(r"^(extends = \[.*)\]$", r'\1, "toy"]', text, flags=re.MULTILINE)
        (configs / f"{stage}.toml").write_text(text)


def recording(folder: Path) -> dict[str, str]:
    """The environment in which a Python process writes down its imports."""
    return {
        "PYTHONPATH": f"{HERE / 'recording'}:{REPOSITORY}",
        "REHEARSAL_IMPORTS": str(folder / "imports"),
    }


def take(step: Step, folder: Path, environment: dict[str, str]) -> None:
    """Run one command; say how long it took and what it showed."""
    began = time.monotonic()
    say(f"$ {step.command}")
    done = subprocess.run(
        step.command.split(),
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seen = re.search(step.shows, done.stdout)
    if done.returncode or not seen:
        sys.exit(f"{done.stdout}\n{step.command}: exit code {done.returncode}, expected 0 and "
                 f"{step.shows!r}; everything lies in {folder}")  # fmt: skip
    shown(began, "; ".join(seen.groups()))


def compare_imports(folder: Path) -> None:
    """Exit 1 where pyproject.toml lacks a distribution or asks for one that nothing uses."""
    found = imports.imported(folder)
    say(f"{len(found)} distributions imported: {', '.join(sorted(found))}")
    if faults := list(imports.faults(found, REPOSITORY / "pyproject.toml")):
        sys.exit("\n".join(faults))


def shown(began: float, what: str) -> None:
    """The time since `began`, and what it was used for."""
    say(f"{time.monotonic() - began:6.1f} s  {what}")


def say(line: str) -> None:
    """A line of progress, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
