import os

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


def test_a_file_that_was_emptied_is_read_from_its_beginning(path, file):
    path.write_bytes(b"one\ntwo\n")
    file.new_lines()
    with path.open("r+b") as same:
        same.truncate(0)
        same.write(b"3\n")
    assert file.new_lines() == [b"3"]


def test_an_append_that_was_taken_back_gives_no_line_twice(path, file):
    path.write_bytes(b"one\ntwo\n")
    assert file.new_lines() == [b"one", b"two"]
    for more, lines in [(b"thr", []), (b"three\nfo", [b"three"]), (b"three", [])]:
        path.write_bytes(b"one\ntwo\n" + more)
        assert file.new_lines() == lines
        os.truncate(path, 8)
        assert file.new_lines() == []
    path.write_bytes(b"one\ntwo\nfour\n")
    assert file.new_lines() == [b"four"]


def test_of_a_line_that_lost_its_end_the_beginning_counts(path, file):
    path.write_bytes(b"one\ntwo\nthree")
    assert file.new_lines() == [b"one", b"two"]
    os.truncate(path, 10)
    assert file.new_lines() == []
    path.write_bytes(b"one\ntwo\nthorough\n")
    assert file.new_lines() == [b"thorough"]


def test_a_line_that_grows_and_grows_is_read_once(path, file):
    path.write_bytes(b" 10%")
    assert file.new_lines() == []
    with path.open("r+b") as same:  # in a place that was read
        same.write(b"?")
    with path.open("ab") as same:
        same.write(b"\r 20%\n")
    assert file.new_lines() == [b" 10%\r 20%"]


def test_a_file_in_the_place_of_another_is_read_from_its_beginning(path, file):
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
