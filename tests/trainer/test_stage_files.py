from pathlib import Path

from trainer import stage_files

REPOSITORY = Path(__file__).parent.parent.parent


def test_ones_own_folder_comes_first_and_only_if_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stage_files.folders() == (REPOSITORY / "configs",)
    (tmp_path / "configs").mkdir()
    assert stage_files.folders() == (Path("configs"), REPOSITORY / "configs")
    monkeypatch.chdir(REPOSITORY)
    assert stage_files.folders() == (Path("configs"),)


def test_of_two_files_of_one_name_the_first_folders_counts(tmp_path):
    for name in ("b/one", "b/parts/part", "a/one", "a/two", "a/parts/part"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.toml").write_text("")
    searched = [tmp_path / "b", tmp_path / "a"]
    assert stage_files.stage_files(searched) == {
        "one": tmp_path / "b/one.toml",
        "two": tmp_path / "a/two.toml",
    }
    assert stage_files.find_part("part", searched) == tmp_path / "b/parts/part.toml"
    assert stage_files.find_part("none", searched) is None
