import pytest

from soractl.errors import SoractlError
from soractl.files.output import aside, check_file, check_folder, nearest


def test_a_file_that_can_be_written_passes_and_nothing_is_left_of_the_try(tmp_path):
    check_file(tmp_path / "out.csv")
    check_folder(tmp_path / "a/b/c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("check", "name", "message", "hint"),
    [
        (check_file, "folder", "{path} is a folder", "give the name of a file"),
        (check_file, "none/out.csv", "{path}: no folder {parent}", "mkdir -p {parent}"),
        (check_folder, "file/in", "{path}: {parent} is a file", "give the name of a folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_with_what_to_type(
    tmp_path, check, name, message, hint
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    path = tmp_path / name
    with pytest.raises(SoractlError) as refused:
        check(path)
    names = {"path": path, "parent": path.parent}
    assert (refused.value.message, refused.value.hint) == (
        message.format(**names),
        hint.format(**names),
    )


def test_the_nearest_place_is_the_path_or_the_first_above_it_that_is_there(tmp_path):
    assert nearest(tmp_path) == nearest(tmp_path / "a/b") == tmp_path


def test_a_file_written_aside_takes_the_others_place_at_the_end(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    with aside(path) as draft:
        draft.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), [file.name for file in tmp_path.iterdir()]) == ("new", ["out.csv"])


@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space"), SoractlError), (ValueError(), ValueError)]
)
def test_a_file_that_was_not_finished_leaves_the_old_one(tmp_path, error, raised):
    path = tmp_path / "out.csv"
    path.write_text("old")

    def write_half():
        with aside(path) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(raised) as caught:
        write_half()
    assert (path.read_text(), [file.name for file in tmp_path.iterdir()]) == ("old", ["out.csv"])
    if raised is SoractlError:
        assert (str(caught.value), caught.value.exit_code) == (f"{path}: No space", 1)
