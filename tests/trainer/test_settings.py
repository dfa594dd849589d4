import dataclasses
import json

import pytest

from tests.trainer.test_config import dump_toml, write
from trainer.config import TrainConfig, load_stage
from trainer.settings import ConfigError, dump, load_toml, parse_override, resolve, without_nulls


def test_settings_cannot_be_written_into():
    stage = load_stage("smoke")
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.config.optim.lr = 1.0


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "optim.warmpup_steps=4",
            "no setting optim.warmpup_steps; did you mean optim.warmup_steps?",
        ),
        ("oprim.lr=4", "no setting oprim; did you mean optim?"),
        ("balance.x=4", "no setting balance.x; balance has: window, measured"),
        ("buckets.keep.240P=[1]", "no setting buckets.keep.240P; did you mean buckets.keep.240p?"),
        ("optim=3", "optim = 3; expected a table"),
        ("buckets.keep=3", "buckets.keep = 3; expected a table"),
        ("optim.lr=fast", "optim.lr = 'fast'; expected float"),
        ("seed=1.5", "seed = 1.5; expected int"),
        ("seed=true", "seed = True; expected int"),
        ("optim.lr=true", "optim.lr = True; expected float"),
        ("trainer.compile=1", "trainer.compile = 1; expected bool"),
        ("trainer.compile=False", "trainer.compile = 'False'; expected bool"),
        ("init_from=3", "init_from = 3; expected str"),
        ("trainer.dtype=fp16", "trainer.dtype = 'fp16'; expected 'bf16' or 'fp32'"),
        (
            "model.arch=XL",
            "model.arch = 'XL'; expected 'STDiT3-XL/2', 'STDiT3-3B/2' or 'STDiT3-smoke'",
        ),
        (
            "model.grad_checkpoint=some",
            "model.grad_checkpoint = 'some'; expected 'none' or 'every_block' or int",
        ),
        ("optim.betas=[0.9]", "optim.betas = [0.9]; expected [float, float]"),
        ("buckets.frames=17", "buckets.frames = 17; expected a list of int"),
        (
            'buckets.keep.256=["all"]',
            "buckets.keep.256 = ['all']; expected a list of float or [float, float]",
        ),
        ("optim.lr=none", "optim.lr = 'none'; expected float"),
        ("vae.weights=", "a value is missing; none unsets an optional setting"),
        ("optim.lr", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("optim..lr=3", "expected section.key=value"),
    ],
)
def test_a_wrong_override_is_quoted_with_what_was_expected(override, fault):
    with pytest.raises(ConfigError) as caught:
        load_stage("smoke", [override])
    assert caught.value.faults == (f"--set {override}: {fault}",)


def test_all_faults_of_all_layers_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        load_stage("stage1", ["optim.lrr=1", "seed=x", "data.workers=no"])
    assert str(caught.value).splitlines() == [
        "--set optim.lrr=1: no setting optim.lrr; did you mean optim.lr?",
        "--set seed=x: seed = 'x'; expected int",
        "--set data.workers=no: data.workers = 'no'; expected int",
    ]


def test_settings_that_no_file_has_are_listed(tmp_path):
    whole = dump_toml(load_stage("smoke").config).splitlines()
    left = [line for line in whole if not line.startswith(("seed", "optim.eps", "balance"))]
    write(tmp_path, "mine.toml", "\n".join(left))
    with pytest.raises(ConfigError) as caught:
        load_stage("mine", folder=tmp_path)
    assert caught.value.faults == (
        "no file sets seed",
        "no file sets balance.window",
        "no file sets balance.measured",
        "no file sets optim.eps",
    )


def test_a_file_of_ones_own_becomes_a_dataclass_of_ones_own(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Place:
        gpus: int
        name: str = "here"

    path = write(tmp_path, "place.toml", "gpus = 8\n")
    assert load_toml(Place, path) == Place(8)
    with pytest.raises(ConfigError) as caught:
        load_toml(Place, tmp_path / "none.toml")
    assert str(caught.value) == f"{tmp_path}/none.toml: No such file or directory"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match=r"place\.toml: 'utf-8' codec can't decode"):
        load_toml(Place, path)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=3", {"seed": 3}),
        (" optim.lr =1e-4", {"optim": {"lr": 1e-4}}),
        ("init_from=runs/006-stage1", {"init_from": "runs/006-stage1"}),
        ("init_from=a=b", {"init_from": "a=b"}),
        ('init_from="3"', {"init_from": "3"}),
        ("buckets.keep.256=[0.5, [0.5, 1.0]]", {"buckets": {"keep": {"256": [0.5, [0.5, 1.0]]}}}),
    ],
)
def test_an_override_is_toml_or_else_text(text, values):
    assert parse_override(text) == values


def test_layers_are_left_as_they_were():
    layer = without_nulls(dump(load_stage("smoke").config))
    before = json.dumps(layer)
    resolve(TrainConfig, [("a", layer), ("b", {"optim": {"lr": 1.0}})])
    assert json.dumps(layer) == before
