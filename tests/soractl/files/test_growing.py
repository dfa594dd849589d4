import pytest

from soractl.files.growing import GrowingFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "n1.log"


@pytest.fixture
def file(path):
    return GrowingFile(path)


def test_lines_come_once_and_when_they_are_whole(path, file):
    assert file.new_lines() == []
    path.write_bytes(b"one\n\n 10%\r 20%\nthr")
    assert file.new_lines() == [b"one", b"", b" 10%\r 20%"]
    assert file.new_lines() == []
    path.write_bytes(path.read_bytes() + b"ee\n")
    assert file.new_lines() == [b"three"]


def test_a_file_that_was_emptied_is_read_from_its_begin(path, file):
    path.write_bytes(b"one\ntwo\n")
    file.new_lines()
    with path.open("r+b") as same:
        same.truncate(0)
        same.write(b"3\n")
    assert file.new_lines() == [b"3"]


def test_a_file_in_the_place_of_another_is_read_from_its_begin(path, file):
    path.write_bytes(b"one\n")
    file.new_lines()
    path.with_suffix(".new").write_bytes(b"one of many\ntwo\n")
    path.with_suffix(".new").replace(path)
    assert file.new_lines() == [b"one of many", b"two"]


def test_what_stands_before_an_offset_is_passed_over(path, file):
    path.write_bytes(b"one\ntwo\n")
    file.go_on_from(4)
    assert file.new_lines() == [b"two"]


def test_a_file_that_cannot_be_read_has_nothing_new(path, file):
    path.mkdir()
    assert file.new_lines() == []
