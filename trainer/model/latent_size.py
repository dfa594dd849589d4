"""Size of a video's latents; needs no torch."""

LATENT_CHANNELS = 4
SPATIAL_FACTOR = 8
TEMPORAL_FACTOR = 4
MICRO_FRAMES = 17

Size = tuple[int | None, int | None, int | None]


def latent_frames(frames: int, micro_frame_size: int | None = MICRO_FRAMES) -> int:
    """Latent frames of `frames` video frames that are encoded in chunks; None: in one piece."""
    chunk = micro_frame_size or max(frames, 1)
    whole, rest = divmod(frames, chunk)
    return whole * -(-chunk // TEMPORAL_FACTOR) + -(-rest // TEMPORAL_FACTOR)


def latent_size(size: Size, micro_frame_size: int | None = MICRO_FRAMES) -> Size:
    """(T, H, W) of the latents of a video of (T, H, W); what is None stays None."""
    frames, height, width = size
    return (
        None if frames is None else latent_frames(frames, micro_frame_size),
        None if height is None else height // SPATIAL_FACTOR,
        None if width is None else width // SPATIAL_FACTOR,
    )
