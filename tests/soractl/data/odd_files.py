import av
import numpy as np


def write_video(path, frames=40, size=(64, 96), codec="libx264"):
    """Noise with a line that moves: each frame is another one."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = noise.integers(0, 64, (*size, 3), dtype=np.uint8)
            picture[:, number % size[1]] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def write_audio(path):
    """A second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = np.zeros((1, 44100), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_odd_files(folder):
    """One file of each kind, named after what is odd with it."""
    from PIL import Image

    folder.mkdir()
    write_video(folder / "good.mp4")
    write_video(folder / "good.mkv")
    write_video(folder / "one-frame.mp4", frames=1)
    write_audio(folder / "audio-only.mp4")
    Image.new("RGB", (32, 16)).save(folder / "good.png")
    whole = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped.mp4").write_bytes(
        whole[:9000] + bytes(byte ^ 0x5A for byte in whole[9000:12000]) + whole[12000:]
    )
    whole = (folder / "good.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:50])
    (folder / "empty.mp4").touch()
    (folder / "text.mov").write_text("no video" * 100)
    return folder
