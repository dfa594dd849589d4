from pathlib import Path

from soractl.stages import comparison
from soractl.stages import report as config_report
from trainer.config import load_stage

CONFIGS = Path(__file__).parent.parent.parent.parent / "configs"


def stages(*names, overrides=()):
    return [load_stage(name, overrides, folder=CONFIGS) for name in names]


def test_two_stages_are_compared_in_one_table():
    names = ["stage3", "stage6"]
    rows = comparison.folded(comparison.differing(stages(*names)))
    optim = [row for row in rows if row.setting.startswith("optim")]
    assert config_report.table(names, optim).lines() == [
        "setting               stage3  stage6",
        "optim.lr              0.0002  8e-05",
        "optim.schedule        warmup  one_cycle",
        "optim.warmup_steps    1000    400",
        "optim.cooldown_steps  0       400",
        "optim.min_lr          -       1.6e-05",
        "optim.max_lr          -       0.00032",
        "optim.anneal          -       cos",
    ]


def test_each_setting_of_a_stage_is_shown_with_its_file():
    [stage] = stages("stage4", overrides=["optim.lr=1e-3"])
    rows = {row.setting: row for row in comparison.one(stage)}
    chosen = [rows["seed"], rows["optim.lr"], rows["epochs"]]
    assert config_report.table(["stage4"], chosen).lines() == [
        "setting   value  from",
        f"seed      42     {CONFIGS}/parts/base.toml",
        "optim.lr  0.001  --set optim.lr=1e-3",
        f"epochs    3      {CONFIGS}/stage4.toml",
    ]


def test_equal_stages_have_nothing_to_show():
    same = comparison.differing(stages("smoke", "smoke"))
    assert config_report.parts(["smoke", "smoke"], same) == [
        "smoke and smoke have the same settings"
    ]
