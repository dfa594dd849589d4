"""`python -m trainer.adopt FOLDER [RUN_DIR]`: the reference's checkpoint becomes one of a run.

The settings come over stdin as JSON, and one JSON object says what was found. Without RUN_DIR
nothing is written.
"""

import argparse
import json
import re
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trainer import packages
from trainer.atomic_files import describe_file
from trainer.config import TrainConfig
from trainer.manifest import Manifest
from trainer.run_dir import RunDir
from trainer.settings import UserError, resolve, without_nulls

with packages.needed():
    import torch
    from torch import Tensor, nn

    from trainer.checkpoints.checkpoint import lay_out, write_index, write_tensors
    from trainer.model.build import build_model
    from trainer.model.pretrained import LoadReport, WeightsError, load_weights
    from trainer.precision import DTYPES

STATES = "running_states.json"
_MAY_LACK = re.compile(r"rope\.freqs")  # a constant, which not every version saves


def main() -> None:
    """Check a folder against a stage's settings; with a run, take it over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("run", type=Path, nargs="?")
    arguments = parser.parse_args()
    try:
        layers = [("stdin", without_nulls(json.load(sys.stdin)))]
        settings = resolve(TrainConfig, layers)[0]
        run = RunDir(arguments.run) if arguments.run else None
        answer = adopt(arguments.folder, settings, run)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{json.dumps(answer)}\n")


def adopt(folder: Path, settings: TrainConfig, run: RunDir | None) -> dict[str, Any]:
    """Weights and averages, every tensor checked, as the first checkpoint of `run`.

    WeightsError says what does not fit.
    """
    position = read_position(folder)
    sources = {"model": (folder / "model", DTYPES[settings.trainer.dtype])}
    if (folder / "ema.pt").exists():
        sources["ema"] = (folder / "ema.pt", torch.float32)
    with nullcontext() if run else torch.device("meta"):  # to check, shapes are enough
        model = build_model(settings)
    loaded = {}
    draft = run.draft_path(position["epoch"], position["global_step"]) if run else None
    try:
        for name, (source, dtype) in sources.items():
            loaded[name] = len(_load_all(model, source).loaded)
            if draft:
                state = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
                _write(draft / name, state)
        if run and draft:
            _publish(run, draft, position, tuple(sorted({"optimizer", "ema"} - set(sources))))
    except BaseException:
        if draft:
            shutil.rmtree(draft, ignore_errors=True)
        raise
    return {**position, "loaded": loaded}


def read_position(folder: Path) -> dict[str, int]:
    """Epoch and steps of a folder that the reference wrote; WeightsError if it did not."""
    path = folder / STATES
    try:
        values = json.loads(path.read_text())
        return {key: int(values[key]) for key in ("epoch", "step", "global_step")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise WeightsError(f"{path} does not say where training was: {error}") from None


def _load_all(model: nn.Module, source: Path) -> LoadReport:
    report = load_weights(model, source)
    if lacking := [name for name in report.missing if not _MAY_LACK.fullmatch(name)]:
        raise WeightsError(f"{source} holds no whole model: {len(lacking)} tensors are missing")
    return report


def _write(folder: Path, tensors: dict[str, Tensor]) -> None:
    layout = lay_out({name: (t.shape, t.nbytes) for name, t in tensors.items()}, world_size=1)
    for file, names in layout.files.items():
        write_tensors(folder / file, {name: tensors[name] for name in names})
    write_index(folder, layout)


def _publish(run: RunDir, draft: Path, position: dict[str, int], left_out: tuple[str, ...]) -> None:
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    manifest = Manifest(
        epoch=position["epoch"],
        step=position["step"],
        global_step=position["global_step"],
        world_size=1,
        consumed=((1, position["step"]),),
        data_fingerprint={},
        files={str(path.relative_to(draft)): describe_file(path) for path in files},
        left_out=left_out,
    )
    run.publish(draft, manifest)


if __name__ == "__main__":
    main()
