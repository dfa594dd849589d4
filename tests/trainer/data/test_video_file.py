from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from soractl.clips.clip_facts import decode, measure
from tests.trainer.data.odd_films import SIZE, TICKS, remux, shown, turn, write
from trainer.data import video_file
from trainer.data.decode import read_frames
from trainer.data.formats import Unfit

XVID = Path(__file__).parents[2] / "recorded/clips/xvid_b_frames.avi"  # by ffmpeg 5.1 -bf 2
OPEN = {"g": "12", "bf": "3", "x264-params": "scenecut=0:open-gop=1:b-adapt=0:b-pyramid=none"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write(tmp_path_factory.mktemp("films") / "base.mp4")


def frames_of(path):
    with video_file.opened(str(path)) as video:
        return np.stack([video.pixels(frame) for frame in video.frames()])


def numbers_of(path):
    """Frames, height and width as measured, and the header's frames if they differ."""
    facts = measure(str(path))
    names = ("num_frames", "height", "width", "header_frames")
    return tuple(facts[name] for name in names if name in facts)


def starts_that_differ(path, count=3):
    """Where a part read by itself is not that part of the whole."""
    whole = read_frames(str(path), 0, numbers_of(path)[0], 32, 48)[0]
    return [
        start
        for start in range(whole.shape[1] - count + 1)
        if not whole[:, start : start + count].equal(
            read_frames(str(path), start, count, 32, 48)[0]
        )
    ]


# A matrix (a, b, c, d) takes (x, y) to (a x + c y, b x + d y).
TURNS = {
    "by 90 degrees": ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, (1, 2))),
    "by 180 degrees": ((-1, 0, 0, -1), lambda frames: np.rot90(frames, 2, (1, 2))),
    "by 270 degrees": ((0, -1, 1, 0), lambda frames: np.rot90(frames, 1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda f: f[:, ::-1, ::-1].swapaxes(1, 2)),
    "not, as no quarter is": ((0.7, 0.7, -0.7, 0.7), lambda frames: frames),
}


@pytest.mark.parametrize(("matrix", "turned"), TURNS.values(), ids=TURNS)
def test_a_film_is_turned_as_its_display_matrix_says(base, tmp_path, matrix, turned):
    path = turn(base, tmp_path / "turned.mp4", matrix)
    expected = turned(shown(base))
    assert np.array_equal(frames_of(path), expected)
    assert numbers_of(path) == (40, *expected.shape[1:3])
    assert decode(str(path), 40) == {"num_frames": 40}
    assert starts_that_differ(path) == []


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(16, 9), (48, 142)), (Fraction(8, 9), (54, 80))]
)
def test_oblong_pixels_are_made_square_by_growing(tmp_path, aspect, size):
    path = write(tmp_path / "oblong.mp4", aspect=aspect)
    assert numbers_of(path) == (40, *size)
    clip, _ = read_frames(str(path), 0, 1, *size)  # of just that size nothing is cut off
    grown = clip[:, 0, :: size[0] // SIZE[0], :].mean(0)
    assert grown.shape[1] == size[1]
    lying = turn(path, tmp_path / "lying.mp4", (0, 1, -1, 0))
    assert numbers_of(lying) == (40, *size[::-1])


def test_what_an_edit_list_cuts_off_is_no_frame(base, tmp_path):
    def keep(packets):
        return [packet for packet in packets if packet.pts >= 10 * TICKS][:25]

    path = remux(base, tmp_path / "cut.mp4", keep, 19 * TICKS)
    assert np.array_equal(frames_of(path), shown(base)[19:35])
    assert numbers_of(path) == (16, *SIZE, 25)
    assert decode(str(path), 16) == {"num_frames": 16}
    assert starts_that_differ(path) == []


def test_frames_begin_with_the_first_key_frame(base, tmp_path):
    path = remux(base, tmp_path / "late.mp4", lambda packets: packets[4:])
    count = len(shown(path))
    assert numbers_of(path) == (count, *SIZE, 36)
    assert decode(str(path), count) == {"num_frames": count}
    assert starts_that_differ(path) == []


def test_frames_that_need_others_of_before_the_first_key_frame_are_none(tmp_path):
    def from_second_key_frame(packets):
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        return packets[keys[1] :]

    whole = write(tmp_path / "whole.mp4", options=OPEN)
    path = remux(whole, tmp_path / "open.mp4", from_second_key_frame, 9 * TICKS)
    assert numbers_of(path) == (28, *SIZE, 31)
    assert decode(str(path), 28) == {"num_frames": 28}
    assert starts_that_differ(path) == []


def test_b_frames_in_avi_are_counted_as_they_are_shown():
    assert numbers_of(XVID) == (23, 48, 64, 25)
    assert decode(str(XVID), 23) == {"num_frames": 23}
    assert starts_that_differ(XVID) == []


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv444p", "yuv422p10le"])
def test_any_bit_depth_and_chroma_look_alike(base, tmp_path, pix_fmt):
    path = write(tmp_path / "deep.mp4", pix_fmt=pix_fmt)
    grey = [frames.astype(int).mean(axis=-1) for frames in (frames_of(path), shown(base))]
    assert np.abs(grey[0] - grey[1]).mean() < 4


def test_what_is_transparent_in_a_film_is_white(tmp_path):
    path = tmp_path / "ghost.mov"
    red = np.zeros((*SIZE, 4), np.uint8)
    red[..., 1] = 255  # argb
    red[:, 40:, 0] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "argb"
        frame = av.VideoFrame.from_ndarray(red, format="argb")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    [pixels] = frames_of(path)
    assert np.unique(pixels[:, :40].reshape(-1, 3), axis=0).tolist() == [[255, 255, 255]]
    assert np.unique(pixels[:, 40:].reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "file:y.mp4", "concat:x.mp4", "a\udcff.mp4", "a\nb.mp4"]
)
def test_a_relative_name_is_a_files_name(base, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(base.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert numbers_of(name) == (40, *SIZE)
    assert read_frames(name, 2, 3, 32, 48)[1] == 25.0


def write_streams(path, *streams):
    """A file of films of one colour each, given as (codec, size, disposition)."""
    with av.open(str(path), "w") as container:
        opened = []
        for codec, (height, width), disposition in streams:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            opened.append(stream)
        for stream in opened:
            picture = np.zeros((stream.height, stream.width, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux([*stream.encode(frame), *stream.encode()])
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_film_is_the_largest_stream_and_a_default_one_first(tmp_path, suffix):
    small, large = ("libx264", (16, 32)), ("libx264", SIZE)
    none = Disposition(0)
    alike = write_streams(tmp_path / f"alike.{suffix}", (*small, none), (*large, none))
    marked = write_streams(
        tmp_path / f"marked.{suffix}", (*large, none), (*small, Disposition.default)
    )
    found = [numbers_of(path)[1:3] for path in (alike, marked)]
    with av.open(str(alike)) as container:  # a muxer may mark the first by itself
        first_is_marked = bool(container.streams.video[0].disposition & Disposition.default)
    assert found == [(16, 32) if first_is_marked else SIZE, (16, 32)]


def test_a_cover_is_no_film(tmp_path):
    cover = ("mjpeg", (96, 160), Disposition.attached_pic)
    film_and_cover = write_streams(
        tmp_path / "film.mp4", cover, ("libx264", SIZE, Disposition.default)
    )
    assert numbers_of(film_and_cover)[1:3] == SIZE
    song = write_streams(tmp_path / "song.mp4", cover)
    with pytest.raises(Unfit, match="no video stream"):
        measure(str(song))
