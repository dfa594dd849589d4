import dataclasses
import json

import pytest

from trainer import config
from trainer.config import load_stage
from trainer.settings import (
    ConfigError,
    dump,
    settings,
)
from trainer.stage_files import shipped_folder

STAGES = sorted(path.stem for path in shipped_folder().glob("stage*.toml"))


@pytest.mark.parametrize("name", ["smoke", *STAGES])
def test_a_runs_config_file_gives_the_same_settings(tmp_path, name):
    resolved = load_stage(name).config
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dump(resolved)))
    assert config.read(path) == resolved


def test_parts_then_the_stage_then_the_command_line_and_each_value_has_its_origin():
    stage = load_stage("stage6", ["optim.lr=1e-5", "data.path=my clips.csv"])
    assert stage.config.optim.lr == 1e-5
    assert stage.config.data.path == "my clips.csv"
    assert {key: stage.origins[key] for key in ("seed", "optim.anneal", "optim.max_lr")} == {
        "seed": "configs/parts/base.toml",
        "optim.anneal": "configs/parts/second_pass.toml",
        "optim.max_lr": "configs/stage6.toml",
    }
    assert stage.origins["optim.lr"] == "--set optim.lr=1e-5"
    unset = {"after", "init_from", "trainer.max_steps", "checkpoint.every_minutes"}
    unset |= {"data.features", "masks.identity", "validation.path"}
    assert set(settings(stage.config)) - set(stage.origins) <= unset


def test_tables_merge_and_other_values_replace(tmp_path):
    write(tmp_path, "parts/all.toml", dump_toml(load_stage("smoke").config))
    write(tmp_path, "parts/more.toml", "[buckets.keep]\n240p = [1.0]\n360p = []\n")
    write(tmp_path, "mine.toml", 'extends = ["all", "more"]\n[optim]\nbetas = [0, 0.5]\n')
    stage = load_stage("mine", folder=tmp_path)
    expected = load_stage("smoke").config
    keep = {**expected.buckets.keep, "240p": (1.0,), "360p": ()}
    optim = dataclasses.replace(expected.optim, betas=(0.0, 0.5))
    buckets = dataclasses.replace(expected.buckets, keep=keep)
    assert stage.config == dataclasses.replace(expected, optim=optim, buckets=buckets)
    assert [type(beta) for beta in stage.config.optim.betas] == [float, float]


def test_elsewhere_the_configs_beside_the_package_are_used(tmp_path, monkeypatch):
    here = load_stage("stage1").config
    monkeypatch.chdir(tmp_path)
    assert load_stage("stage1").config == here


def test_a_stage_of_ones_own_extends_the_shipped_parts_and_ones_own_come_first(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "configs/mine.toml", 'extends = ["base", "xl", "low", "more"]\nepochs = 7\n')
    write(tmp_path, "configs/parts/more.toml", "[optim]\nlr = 0.5\n")
    mine = load_stage("mine")
    shipped = shipped_folder()
    assert {key: mine.origins[key] for key in ("seed", "optim.lr", "epochs")} == {
        "seed": f"{shipped}/parts/base.toml",
        "optim.lr": "configs/parts/more.toml",
        "epochs": "configs/mine.toml",
    }
    assert load_stage("stage1").origins["seed"] == f"{shipped}/parts/base.toml"
    write(tmp_path, "configs/stage1.toml", 'extends = ["base", "xl", "low"]\nepochs = 7\n')
    assert load_stage("stage1").origins["epochs"] == "configs/stage1.toml"
    others = ", ".join(sorted({path.stem for path in shipped.glob("*.toml")} - {"stage1"}))
    with pytest.raises(ConfigError) as caught:
        load_stage("min")
    assert str(caught.value) == (
        f"no stage named min; configs/ has: mine, stage1; {shipped}/ has: {others}; "
        "did you mean mine?"
    )


def test_none_unsets_an_optional_setting_and_is_a_word_elsewhere():
    given = ["vae.weights=there", "vae.weights=none", "trainer.max_steps=none"]
    stage = load_stage("smoke", [*given, "model.grad_checkpoint=none", "log.wandb_project=none"])
    assert (stage.config.vae.weights, stage.config.trainer.max_steps) == (None, None)
    assert stage.origins["vae.weights"] == "--set vae.weights=none"
    assert stage.config.model.grad_checkpoint == "none"
    assert stage.config.log.wandb_project == "none"
    assert load_stage("smoke", ['vae.weights="none"']).config.vae.weights == "none"


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def dump_toml(resolved):
    """JSON's values are TOML's, so one line a setting does."""
    values = {key: value for key, value in settings(resolved).items() if value is not None}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.mark.parametrize(
    ("overrides", "faults"),
    [
        (["epochs=0"], ["epochs = 0; expected at least 1"]),
        (["seed=-1"], ["seed = -1; expected 0 to 9223372036854775807"]),
        (["optim.lr=nan"], ["optim.lr = nan; expected finite numbers"]),
        (["optim.lr=-1.0"], ["optim.lr = -1.0; expected at least 0"]),
        (["guard.spike_factor=inf"], ["guard.spike_factor = inf; expected finite numbers"]),
        (["flow.cfg_scale=nan"], ["flow.cfg_scale = nan; expected finite numbers"]),
        (["flow.loc=-inf"], ["flow.loc = -inf; expected finite numbers"]),
        (["flow.scale=nan"], ["flow.scale = nan; expected finite numbers"]),
        (["flow.scale=0"], ["flow.scale = 0.0; expected more than 0"]),
        (["flow.transform_scale=-1"], ["flow.transform_scale = -1.0; expected more than 0"]),
        (["optim.eps=-1e-8"], ["optim.eps = -1e-08; expected at least 0"]),
        (["optim.weight_decay=-0.1"], ["optim.weight_decay = -0.1; expected at least 0"]),
        (
            ["optim.betas=[0.9, 1.0]"],
            ["optim.betas = [0.9, 1.0]; expected numbers from 0 to below 1"],
        ),
        (
            ["optim.betas=[-0.1, 0.9]"],
            ["optim.betas = [-0.1, 0.9]; expected numbers from 0 to below 1"],
        ),
        (
            ["buckets.keep={144p=[],240p=[]}"],
            ["buckets.keep has no bucket, so no clip would be trained on"],
        ),
        (
            ["buckets.frames=[0, 17, 34]"],
            ["buckets.frames = [0, 17, 34]; expected rising numbers from 1 on"],
        ),
        (["optim.ema_decay=1.5"], ["optim.ema_decay = 1.5; expected 0 to 1"]),
        (["log.every_steps=0"], ["log.every_steps = 0; expected at least 1"]),
        (["model.grad_checkpoint=0"], ["model.grad_checkpoint = 0; expected at least 1"]),
        (
            ["text_encoder.max_length=33"],
            ["text_encoder.max_length = 33; model.arch = 'STDiT3-smoke' takes 32"],
        ),
        (
            ["text_encoder.max_length=31"],
            ["text_encoder.max_length = 31; model.arch = 'STDiT3-smoke' takes 32"],
        ),
        (
            ["flow.use_discrete_timesteps=true"],
            [
                "flow.use_discrete_timesteps = True needs flow.sample_method = 'uniform', not "
                "'logit-normal'"
            ],
        ),
        (["trainer.max_steps=0"], ["trainer.max_steps = 0; expected at least 1"]),
        (["masks.random=-0.1"], ["masks.random = -0.1; expected 0 to 1"]),
        (
            ["masks.random=0.5", "masks.image_tail=0.5"],
            ["the shares of masks add up to 1.1; at most 1 is possible"],
        ),
        (
            ["masks.identity=0.7"],
            ["the shares of masks, identity among them, add up to 0.9; expected 1"],
        ),
        (
            ["masks.identity=0.9"],
            ["the shares of masks add up to 1.1; at most 1 is possible"],
        ),
        (
            ["optim.schedule=one_cycle", "optim.max_lr=1e-3"],
            [
                "optim.schedule = 'one_cycle' needs optim.min_lr",
                "optim.schedule = 'one_cycle' needs optim.anneal",
            ],
        ),
        (
            ["after=stage1", "init_from=model.pth"],
            ["`after` and `init_from` both say where the weights come from; keep one"],
        ),
        (
            ["buckets.frames=[17, 1, 34]"],
            ["buckets.frames = [17, 1, 34]; expected rising numbers from 1 on"],
        ),
        (
            ["buckets.keep.240p=[1.0, 1.0, 1.0, 1.0]"],
            [
                "buckets.keep.240p has 4 columns; buckets.frames has 3",
                "buckets.keep.240p keeps clips at 34 frames without a buckets.batch_size there",
            ],
        ),
        (
            ["buckets.keep.240p=[0.0, 1.5]"],
            ["buckets.keep.240p at 17 frames = 1.5; expected 0 to 1"],
        ),
        (
            ["buckets.keep.2880=[0.5]"],
            ["buckets.keep.2880 keeps clips at 1 frames without a buckets.batch_size there"],
        ),
        (
            ["buckets.keep.240p=[[0.5, 0.5]]"],
            ["buckets.keep.240p = (0.5, 0.5) for images; expected one number"],
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, faults):
    with pytest.raises(ConfigError) as caught:
        load_stage("smoke", overrides)
    assert [fault.split(": ", 1)[1] for fault in caught.value.faults] == faults


def test_masks_may_be_spelled_as_the_references_files_spell_them():
    stage = load_stage("smoke", ["masks.intepolate=0.3", "masks.identity=0.5"])
    assert (stage.config.masks.interpolate, stage.config.masks.identity) == (0.3, 0.5)
    assert stage.origins["masks.interpolate"] == "--set masks.intepolate=0.3"
    both = "masks={interpolate=0.1,intepolate=0.2}"
    with pytest.raises(
        ConfigError, match=r"no setting masks\.intepolate; did you mean masks\.inte"
    ):
        load_stage("smoke", [both])


def test_an_unknown_stage_is_refused_with_those_that_there_are(tmp_path):
    for name in ("one", "two"):
        write(tmp_path, f"{name}.toml", "")
    with pytest.raises(ConfigError) as caught:
        load_stage("tow", folder=tmp_path)
    expected = f"no stage named tow; {tmp_path}/ has: one, two; did you mean two?"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('extends = ["bse"]', "extends bse, which is not in {folder}/parts/"),
        ('extends = "base"', "extends = 'base'; expected a list of names in parts/"),
        ("extends = [3]", "extends = [3]; expected a list of names in parts/"),
        ("seed = ", "Invalid value (at end of document)"),
    ],
)
def test_a_stage_file_that_cannot_be_read_is_named(tmp_path, text, fault):
    path = write(tmp_path, "mine.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_stage("mine", folder=tmp_path)
    assert str(caught.value) == f"{path}: {fault.format(folder=tmp_path)}"
