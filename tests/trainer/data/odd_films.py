"""Films that a player shows otherwise than their headers or stored pixels say, made with PyAV."""

import struct
from fractions import Fraction

import av
import numpy as np

SIZE = (48, 80)  # height, width
TICKS = 512  # of a frame


def pattern(number, height=SIZE[0], width=SIZE[1]):
    """A picture without symmetry, another one for each number."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([rows * 5, columns * 3, np.full_like(rows, number * 2)], axis=-1) % 256
    picture[: height // 4, : width // 4] = 255
    return picture.astype(np.uint8)


def write(path, frames=40, *, codec="libx264", pix_fmt="yuv420p", options=None, aspect=None):
    """25 frames per second; a key frame every ten, B-frames between, if the codec has any."""
    with av.open(str(path), "w") as container:
        given = {"g": "10", "bf": "2"} if options is None else options
        stream = container.add_stream(codec, rate=25, options=given)
        stream.height, stream.width = SIZE
        stream.pix_fmt = pix_fmt
        if aspect:
            stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(pattern(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(source, path, matrix):
    """The same film with a display matrix (a, b, c, d) in its header."""
    content = source.read_bytes()
    a, b, c, d = (round(number * 65536) for number in matrix)
    place = content.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2, of version 0
    whole = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + whole + content[place + len(whole) :])
    return path


def remux(source, path, keep, shift=0):
    """Some packets of a film, as they are, `shift` ticks earlier; what is before 0 is cut off."""
    with av.open(str(source)) as whole, av.open(str(path), "w") as part:
        [stream] = whole.streams.video
        target = part.add_stream_from_template(stream)
        packets = [packet for packet in whole.demux(stream) if packet.dts is not None]
        for packet in keep(packets):
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = target
            part.mux(packet)
    return path


def shown(path):
    """What libav gives of the first video stream: uint8 [T, h, w, 3]."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
