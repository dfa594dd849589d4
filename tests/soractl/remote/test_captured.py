import io

import pytest

from soractl.remote.captured import KEEP_BYTES, AfterLine, Captured, Stream


def test_a_stream_is_read_to_its_end_and_kept_as_far_as_there_is_room():
    stream = Stream()
    stream.read(io.BytesIO(bytes(KEEP_BYTES + 70_000)).read)
    assert (len(stream.kept), stream.dropped) == (KEEP_BYTES, 70_000)


def test_bytes_that_are_no_text_are_shown_as_such():
    stream = Stream(bytearray(b"a\xffb"))
    assert stream.text == "a\ufffdb"


@pytest.mark.parametrize(
    ("chunks", "before", "after"),
    [
        ([b"begin\nout"], b"", b"out"),
        ([b"Welcome\nbe", b"gin\n", b"out"], b"Welcome\n", b"out"),
        ([b"no such line"], None, b""),
    ],
)
def test_a_stream_begins_behind_its_line_wherever_that_is_cut(chunks, before, after):
    rest = iter([*chunks, b"", b""])
    read = AfterLine(b"begin\n", lambda size: next(rest))
    assert b"".join(iter(lambda: read(9), b"")) == after
    assert (read.begun, read.before if read.begun else None) == (before is not None, before)


def test_both_streams_of_a_program_are_read_at_once():
    captured = Captured(begin=b"begin\n")
    out, err = io.BytesIO(b"motd\nbegin\n4\n"), io.BytesIO(b"wrong\n")
    for thread in captured.reading(out.read, err.read):
        thread.join()
    assert (captured.stdout.text, captured.stderr.text) == ("4\n", "wrong\n")
    assert (captured.begun, captured.before) == (True, "motd\n")
    assert (Captured().begun, Captured().before) == (False, "")
