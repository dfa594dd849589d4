import math

from soractl.clips.clip_facts import decode, measure
from trainer.data.formats import Unfit

NO_INDEX = "Invalid data found when processing input: mov,mp4,m4a,3gp,3g2,mj2: moov atom not found"


ENDED = "matroska,webm: File ended prematurely"


def answer_of(read, path, *expected):
    try:
        return read(str(path), *expected)
    except Unfit as fault:
        return str(fault)


def numbers(path, frames, height, width, fps):
    return {
        "num_frames": frames,
        "height": height,
        "width": width,
        "aspect_ratio": height / width,
        "fps": fps,
        "resolution": height * width,
        "file_size": path.stat().st_size,
    }


def test_measuring_reads_the_numbers_of_a_clip_from_its_header(odd):
    assert answer_of(measure, odd / "good.mp4") == numbers(odd / "good.mp4", 40, 64, 96, 24.0)
    assert answer_of(measure, odd / "one-frame.mp4") == numbers(
        odd / "one-frame.mp4", 1, 64, 96, 24.0
    )


def test_frames_are_counted_if_the_header_has_no_number(odd):
    assert answer_of(measure, odd / "good.mkv") == numbers(odd / "good.mkv", 40, 64, 96, 24.0)


def test_a_picture_is_one_frame_without_a_rate(odd):
    measured = answer_of(measure, odd / "good.png")
    assert math.isnan(measured.pop("fps"))
    assert {**measured, "fps": None} == numbers(odd / "good.png", 1, 16, 32, None)


def test_a_file_that_cannot_be_measured_gives_its_reason(odd):
    (odd / "notes.txt").write_text("no clip")
    bad = ("audio-only.mp4", "cut.mp4", "empty.mp4", "text.mov", "missing.mp4", "notes.txt")
    assert [answer_of(measure, odd / name) for name in bad] == [
        "no video stream",
        NO_INDEX,
        "the file is empty",
        NO_INDEX,
        "No such file or directory",
        "neither a video (.mp4, .avi, .mov, .mkv) nor an image",
    ]


def test_decoding_finds_faults_that_measuring_does_not_see(odd):
    assert answer_of(decode, odd / "good.mp4") == {"num_frames": 40}
    assert answer_of(decode, odd / "good.mkv") == {"num_frames": 40}
    assert answer_of(decode, odd / "one-frame.mp4") == {"num_frames": 1}
    assert answer_of(decode, odd / "good.png") == {"num_frames": 1}
    assert answer_of(decode, odd / "cut.mkv") == answer_of(decode, odd / "cut.mkv") == ENDED
    assert "Invalid NAL unit size" in answer_of(decode, odd / "flipped.mp4")
    assert answer_of(decode, odd / "cut.png") != {"num_frames": 1}
    assert answer_of(decode, odd / "audio-only.mp4") == "no video stream"


def test_fewer_frames_than_the_table_says_are_a_fault(odd):
    assert answer_of(decode, odd / "good.mp4", 40) == {"num_frames": 40}
    assert answer_of(decode, odd / "good.mp4", 41) == "40 frames, where the table says 41"
