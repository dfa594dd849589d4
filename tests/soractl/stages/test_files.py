import pytest

from soractl.errors import SoractlError
from soractl.stages import files
from soractl.stages import report as config_report
from soractl.stages.files import StageFile
from trainer.config import load_stage
from trainer.settings import ConfigError
from trainer.stage_files import shipped_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_list_names_ones_own_stages_the_shipped_ones_and_those_that_are_hidden(tmp_path):
    for name in ("own/b", "own/mine", "shipped/a", "shipped/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.toml").write_text("")
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    found = files.listing([own, shipped])
    assert found == [
        StageFile("a", shipped / "a.toml"),
        StageFile("b", own / "b.toml", hides=shipped / "b.toml"),
        StageFile("mine", own / "mine.toml"),
    ]
    assert config_report.list_json(found)["stages"][1] == {
        "name": "b",
        "path": f"{own}/b.toml",
        "hides": f"{shipped}/b.toml",
    }


def test_a_copy_is_the_same_stage_under_its_own_name_and_nothing_is_overwritten(workplace):
    done = workplace.soractl("config", "copy", "stage2", "mine", "--dry-run")
    assert not (workplace.folder / "configs").exists()
    assert done.stdout.splitlines()[0].startswith("would copy ")
    done = workplace.soractl("config", "copy", "stage2", "mine")
    assert done.stdout.splitlines() == [
        f"copied {shipped_folder()}/stage2.toml to configs/mine.toml",
        "edit it, then: soractl launch mine --dry-run",
    ]
    assert load_stage("mine").config == load_stage("stage2").config
    (workplace.folder / "configs/mine.toml").write_text("changed")
    refused = workplace.soractl("config", "copy", "stage2", "mine", code=5)
    assert refused.stderr.splitlines() == [
        "error: configs/mine.toml is there already",
        "hint: `soractl config copy stage2 NAME` makes a copy of another name",
    ]
    assert (workplace.folder / "configs/mine.toml").read_text() == "changed"
    listed = workplace.soractl("config", "list").stdout.splitlines()
    assert listed[1].split() == ["mine", "configs/mine.toml"]


@pytest.mark.parametrize("name", ["../mine", "a/b", ".mine", "", "-x"])
def test_a_copy_lands_in_the_folder_of_stages_alone(here, name):
    with pytest.raises(SoractlError, match="is no name of a stage"):
        files.plan_copy("stage2", name)


def test_a_stage_that_there_is_not_cannot_be_copied(here):
    with pytest.raises(ConfigError, match="no stage named stage22; "):
        files.plan_copy("stage22", "mine")
    (here / "configs").write_text("a file")
    with pytest.raises(SoractlError, match=r"cannot write configs/mine\.toml: File exists"):
        files.copy(files.plan_copy("stage2", "mine"))
