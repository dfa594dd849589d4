import av
import pytest
import torch
from PIL import Image

from trainer.sampling.films import poster_of, write_contact_sheet, write_poster, write_video


def ramp(frames, height=32, width=48):
    """uint8 [T, H, W, 3]: each frame one grey, from black to white."""
    greys = torch.linspace(0, 255, frames).to(torch.uint8)
    return greys[:, None, None, None].expand(frames, height, width, 3)


def test_a_video_plays_while_it_loads_and_has_all_frames(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(ramp(9), path, 24)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        assert (len(frames), stream.pix_fmt, stream.average_rate) == (9, "yuv420p", 24)
    assert frames[0].mean() < 5
    assert frames[-1].mean() > 250
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_poster_is_the_middle_frame_and_a_picture_is_its_own(tmp_path):
    path = tmp_path / "a.mp4"
    write_poster(ramp(9), poster_of(path))
    with Image.open(tmp_path / "a.poster.png") as poster:
        assert poster.getpixel((3, 3)) == (127, 127, 127)
    assert poster_of(tmp_path / "a.png") == tmp_path / "a.png"


def test_a_contact_sheet_has_a_strip_a_video_from_first_to_last_frame(tmp_path):
    write_video(ramp(9), tmp_path / "a.mp4", 24)
    write_video(ramp(1), tmp_path / "b.png", 24)
    films = [(tmp_path / "a.mp4", "a: gr\u00fcn \u5144"), (tmp_path / "b.png", "b")]
    write_contact_sheet(films, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (5 * (180 + 4), 2 * (120 + 16))
        strip = [sheet.getpixel((184 * cell + 90, 76))[0] for cell in range(5)]
    assert strip == pytest.approx([0, 63, 127, 191, 255], abs=6)
