import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests.soractl.data.odd_files import write_audio
from trainer.data import smoke_clips
from trainer.data.decode import DecodeError, read_clip, read_frames
from trainer.data.transforms import image, video_frame
from trainer.data.video_file import Film


def all_frames(path, target):
    """Every frame of a file, decoded from the first one."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        height, width, _ = frames[0].shape
        shown = (height, round(width * (container.streams.video[0].sample_aspect_ratio or 1)))
    return torch.stack([video_frame(frame, target, shown) for frame in frames], dim=1)


def starts_that_differ(path, count, target=(32, 48), every=1):
    frames = all_frames(path, target)
    starts = range(0, frames.shape[1] - count + 1, every)
    return [
        start
        for start in starts
        if not torch.equal(
            read_frames(path, start, count, *target)[0], frames[:, start : start + count]
        )
    ]


def reason_of(path, start=0, count=4):
    with pytest.raises(DecodeError) as caught:
        read_frames(str(path), start, count, 32, 48)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


B_FRAMES = {"g": "12", "bf": "3", "x264-params": "scenecut=0"}


@pytest.mark.parametrize(
    ("name", "codec", "rate", "options"),
    [
        ("closed.mp4", "libx264", 24, B_FRAMES),
        ("closed.mov", "libx264", 24, B_FRAMES),
        ("closed.mkv", "libx264", 24, B_FRAMES),
        ("closed.avi", "libx264", 24, B_FRAMES),
        ("open.mp4", "libx264", 24, {**B_FRAMES, "x264-params": "scenecut=0:open-gop=1"}),
        ("refresh.mp4", "libx264", 24, {"x264-params": "intra-refresh=1:keyint=12"}),
        ("ntsc.mp4", "libx264", Fraction(30000, 1001), B_FRAMES),
        ("one_key_frame.mp4", "libx264", 24, {"g": "1000"}),
        ("mpeg4.avi", "mpeg4", 24, {"g": "12", "bf": "2"}),
        ("mpeg4.mp4", "mpeg4", 24, {"g": "12", "bf": "2"}),
    ],
)
def test_frames_are_those_of_decoding_from_the_first_one(
    write_video, tmp_path, name, codec, rate, options
):
    path = write_video(tmp_path / name, 50, codec=codec, rate=rate, options=options)
    assert starts_that_differ(path, 5) == []


@pytest.mark.parametrize("gap", [7, 24, 40])
@pytest.mark.parametrize("name", ["gap.mp4", "gap.mkv"])
def test_a_gap_in_the_times_does_not_shift_the_frames(write_video, tmp_path, name, gap):
    times = [number + (3 if number >= gap else 0) for number in range(50)]
    path = write_video(tmp_path / name, 50, times=times, options=B_FRAMES)
    assert starts_that_differ(path, 5) == []


def test_uneven_times_do_not_shift_the_frames(write_video, tmp_path):
    times = [number * 2 + (number % 3 == 0) for number in range(50)]
    path = write_video(tmp_path / "uneven.mp4", 50, times=times, options=B_FRAMES)
    assert starts_that_differ(path, 5) == []


def test_a_film_that_begins_late_is_read_whole(write_video, tmp_path):
    times = range(20, 70)
    path = write_video(tmp_path / "late.mp4", 50, times=times, options=B_FRAMES)
    assert starts_that_differ(path, 5) == []


@pytest.mark.slow
def test_real_films_are_read_as_from_their_first_frame():
    for video in smoke_clips._sources():
        assert starts_that_differ(str(video), 4, every=47) == []


def test_only_the_frames_since_the_key_frame_are_decoded(write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "film.mp4", 100, options=B_FRAMES)
    seen = []
    frames = Film.frames

    def counted(film):
        for frame in frames(film):
            seen.append(round(frame.time * 24))
            yield frame

    monkeypatch.setattr(Film, "frames", counted)
    read_frames(path, 90, 4, 32, 48)
    assert seen == [*range(84, 94)]


def test_a_film_slower_than_a_frame_a_second_has_its_own_rate(write_video, tmp_path):
    path = write_video(tmp_path / "slow.mp4", 4, rate=Fraction(1, 2))
    assert read_frames(path, 0, 4, 32, 48)[1] == 0.5


def test_a_clip_is_float_in_minus_one_to_one_with_whole_frames_per_second(write_video, tmp_path):
    path = write_video(tmp_path / "film.mp4", 10, rate=Fraction(24000, 1001))
    clip, fps = read_frames(path, 2, 8, 32, 48)
    assert (clip.shape, clip.dtype, fps) == ((3, 8, 32, 48), torch.float32, 23.0)
    assert clip.min() >= -1
    assert clip.max() <= 1


def test_a_picture_is_one_frame_at_120_per_second(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    picture.save(tmp_path / "picture.PNG")
    clip, fps = read_frames(str(tmp_path / "picture.PNG"), 0, 1, 32, 48)
    assert torch.equal(clip, image(picture, (32, 48))[:, None])
    assert fps == 120.0


def test_a_picture_or_a_whole_film_is_read_for_reference(write_video, tmp_path):
    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "picture.png")
    clip = read_clip(str(tmp_path / "picture.png"), 32, 48)
    assert clip.shape == (3, 1, 32, 48)
    path = write_video(tmp_path / "film.mp4", 9)
    assert torch.equal(read_clip(path, 32, 48), all_frames(path, (32, 48)))


def test_a_film_of_one_frame_is_read(write_video, tmp_path):
    path = write_video(tmp_path / "one.mp4", 1)
    assert read_frames(path, 0, 1, 32, 48)[0].shape == (3, 1, 32, 48)


def test_too_few_frames_are_an_error_never_black_ones(write_video, tmp_path):
    path = write_video(tmp_path / "film.mp4", 20, options=B_FRAMES)
    assert reason_of(path, 0, 21) == "20 frames, where 21 are wanted"
    assert reason_of(path, 18, 4) == "20 frames, where 22 are wanted"
    assert reason_of(path, 30, 4) == "20 frames, where 34 are wanted"


def test_a_truncated_film_is_an_error(write_video, tmp_path):
    for name in ("film.mp4", "film.mkv"):
        path = Path(write_video(tmp_path / name, 40, options=B_FRAMES))
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(DecodeError):
            read_frames(str(path), 0, 40, 32, 48)


def test_a_film_that_lost_its_end_is_read_up_to_there(write_video, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 48, options=B_FRAMES)
    path = str(tmp_path / "film.mp4")
    with (
        av.open(whole) as source,
        av.open(path, "w", options={"movflags": "faststart"}) as film,
    ):
        stream = film.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                film.mux(packet)
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) * 2 // 3])
    clip, _ = read_frames(path, 5, 12, 32, 48)
    assert torch.equal(clip, all_frames(whole, (32, 48))[:, 5:17])
    assert reason_of(path, 40, 8)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "picture.png", "picture.jpg"])
@pytest.mark.parametrize("content", [b"", b"no film" * 100, bytes(5000)])
def test_a_file_of_something_else_is_an_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert reason_of(path, 0, 1)


def test_a_damaged_picture_is_an_error(tmp_path):
    path = tmp_path / "picture.png"
    Image.effect_noise((200, 200), 50).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    assert reason_of(path, 0, 1)


def test_a_missing_file_is_an_error(tmp_path):
    for name in ("film.mp4", "picture.png"):
        assert reason_of(tmp_path / name, 0, 1) == "No such file or directory"


def test_sound_without_a_picture_is_an_error(tmp_path):
    path = tmp_path / "sound.mp4"
    write_audio(path)
    assert reason_of(path) == "no video stream"


def test_a_picture_is_no_clip_of_several_frames(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "picture.png")
    assert reason_of(tmp_path / "picture.png") == "an image, where 4 frames are wanted"


def test_an_unknown_kind_of_file_is_an_error(tmp_path):
    assert reason_of(tmp_path / "film.gif").startswith("neither a video (.mp4, .avi, .mov, .mkv)")


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_read_leaves_a_file_open(write_video, tmp_path):
    good = write_video(tmp_path / "film.mp4", 12)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(Path(good).read_bytes()[:600])

    def read_both():
        read_frames(good, 4, 4, 32, 48)
        reason_of(good, 10, 4)
        reason_of(bad)

    read_both()
    gc.collect()  # what other tests left open
    before = open_files()
    for _ in range(70):
        read_both()
    assert open_files() <= before
