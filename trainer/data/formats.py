"""Videos and pictures, distinguished by the ending of their names."""

from pathlib import Path

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv")


class Unfit(Exception):
    """The reason why a file is of no use as a clip."""


def is_image(path: str) -> bool:
    """Pictures, as opposed to videos; Unfit if a name says neither."""
    suffix = Path(path).suffix.lower()
    if suffix not in (*IMAGES, *VIDEOS):
        raise Unfit(f"neither a video ({', '.join(VIDEOS)}) nor an image")
    return suffix in IMAGES
