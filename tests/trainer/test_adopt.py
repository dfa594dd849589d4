import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.rehearsal.published import write_reference_checkpoint
from trainer.adopt import adopt
from trainer.atomic_files import describe_file
from trainer.checkpoint_dir import Checkpoint, read_checkpoint
from trainer.config import load_stage
from trainer.model.build import build_model
from trainer.model.pretrained import WeightsError, load_weights, read_tensors
from trainer.run_dir import RunDir

SMOKE = load_stage("smoke", folder=Path(__file__).parent.parent.parent / "configs").config


@pytest.fixture(scope="module")
def states():
    """What training may have made of weights and averages."""
    model = build_model(SMOKE).state_dict()
    weights = {name: (tensor + 0.25).bfloat16() for name, tensor in model.items()}
    return weights, {name: tensor + 0.125 for name, tensor in model.items()}


@pytest.fixture
def folder(states, tmp_path):
    return as_the_reference_writes_it(tmp_path, *states)


def as_the_reference_writes_it(tmp_path, weights, averages):
    folder = tmp_path / "epoch1-global_step300"
    write_reference_checkpoint(folder, weights, averages)
    return folder


def write(path, values):
    path.write_text(json.dumps(values))


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path / "001-smoke")
    run.checkpoints_folder.mkdir(parents=True)
    return run


def test_weights_and_averages_are_taken_over_bit_for_bit(folder, run, states):
    assert adopt(folder, SMOKE, run) == {
        "epoch": 1,
        "step": 100,
        "global_step": 300,
        "loaded": {"model": len(states[0]), "ema": len(states[0])},
    }
    [checkpoint] = run.checkpoints()
    assert checkpoint.name == "epoch1-global_step300"
    assert checkpoint.manifest.left_out == ("optimizer",)
    for name, facts in checkpoint.manifest.files.items():
        assert describe_file(checkpoint.path / name) == facts
    for part, expected in zip((checkpoint.model, checkpoint.ema), states, strict=True):
        found = dict(read_tensors(part))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
        assert load_weights(build_model(SMOKE), part).missing == ()


def test_without_a_run_it_is_only_checked(folder, run, states):
    found = adopt(folder, SMOKE, None)
    assert found["loaded"] == {"model": len(states[0]), "ema": len(states[0])}
    assert run.checkpoints() == []


def test_a_folder_without_averages_gives_a_checkpoint_without_them(folder, run):
    (folder / "ema.pt").unlink()
    assert list(adopt(folder, SMOKE, run)["loaded"]) == ["model"]
    [checkpoint] = run.checkpoints()
    assert checkpoint.manifest.left_out == ("ema", "optimizer")


def damage(folder, what):
    ema = torch.load(folder / "ema.pt")
    if what == "missing":
        del ema["temporal_blocks.0.mlp.fc2.bias"]
    elif what == "more":
        ema["blocks.0.attn.sr.weight"] = torch.zeros(2)
    elif what == "shape":
        ema["final_layer.linear.bias"] = torch.zeros(2)
    torch.save(ema, folder / "ema.pt")
    if what == "half":
        (folder / "ema.pt").write_bytes((folder / "ema.pt").read_bytes()[:1000])
    if what == "shard":
        (folder / "model" / "pytorch_model-00002.bin").unlink()
    if what == "states":
        (folder / "running_states.json").write_text('{"epoch": 1}')
    if what == "pixart":
        shutil.rmtree(folder / "model")
        names = [name for name in ema if name.startswith("spatial_blocks")]
        (folder / "model").mkdir()
        tensors = {name.replace("spatial_blocks", "blocks"): ema[name] for name in names}
        torch.save(tensors, folder / "model" / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("missing", r"ema.pt does not fit .* 1 missing \(temporal_blocks.0.mlp.fc2.bias\)"),
        ("more", r"ema.pt does not fit .* 1 not the model's \(blocks.0.attn.sr.weight\)"),
        ("shape", r"ema.pt does not fit .*final_layer.linear.bias is 2 and should be 32"),
        ("half", r"ema.pt cannot be read as plain tensors"),
        ("shard", r"pytorch_model-00002.bin cannot be read"),
        ("states", r"running_states.json does not say where training was: 'step'"),
        ("pixart", r"model does not fit the model; tensors: \d+ missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_leaves_nothing_behind(
    folder, run, what, reason
):
    damage(folder, what)
    for into in (None, run):
        with pytest.raises(WeightsError, match=reason):
            adopt(folder, SMOKE, into)
    assert list(run.checkpoints_folder.iterdir()) == []


def test_an_adopted_checkpoint_is_complete_as_any_other(folder, run):
    adopt(folder, SMOKE, run)
    [checkpoint] = run.checkpoints()
    assert isinstance(read_checkpoint(checkpoint.path), Checkpoint)
    next(checkpoint.ema.glob("*.safetensors")).unlink()
    assert not isinstance(read_checkpoint(checkpoint.path), Checkpoint)


@pytest.mark.slow  # three starts of the trainer's program
def test_the_command_makes_a_run_that_the_next_stage_starts_from(folder, workplace):
    shown = workplace.soractl("ckpt", "adopt", str(folder), "smoke", "--dry-run").stdout
    assert shown.startswith(f"would adopt {folder.name} as runs/001-smoke/checkpoints/")
    assert not (workplace.folder / "runs" / "001-smoke").exists()
    values = json.loads(workplace.soractl("ckpt", "adopt", str(folder), "smoke", "--json").stdout)
    assert (values["run"], values["global_step"], values["dry_run"]) == ("001-smoke", 300, False)
    newest = workplace.folder / "runs" / "001-smoke" / "checkpoints" / folder.name
    assert workplace.soractl("ckpt", "latest").stdout.strip() == str(newest)
    plan = workplace.soractl("launch", "smoke", "--init-from", "runs/001-smoke", "--dry-run")
    assert str(newest.relative_to(workplace.folder)) in plan.stdout
    refused = workplace.soractl("resume", "latest", code=6).stderr
    assert "holds no optimizer, so nothing can resume from it" in refused
    damage(folder, "missing")
    refused = workplace.soractl("ckpt", "adopt", str(folder), "smoke", code=2).stderr
    assert "1 missing (temporal_blocks.0.mlp.fc2.bias)" in refused
    assert len(list((workplace.folder / "runs").glob("*-*"))) == 1
    nothing = workplace.soractl("ckpt", "adopt", "runs", "smoke", code=2).stderr
    assert "is no checkpoint of the reference: model is not there" in nothing
