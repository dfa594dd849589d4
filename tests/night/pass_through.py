"""`python pass_through.py FOLDER MOUNT`: a folder, read through a server that a test can stop."""

import os
import sys

import mfusepy

FACTS = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")
TIMES = ("st_atime", "st_mtime", "st_ctime")


class PassThrough(mfusepy.Operations):
    """Reads go to the folder."""

    use_ns = True

    def __init__(self, root):
        self.root = root

    def getattr(self, path, fh=None):
        found = os.lstat(self.root + path)
        times = {name: getattr(found, f"{name}_ns") for name in TIMES}
        return {name: getattr(found, name) for name in FACTS} | times

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.root + path)]  # noqa: PTH208 - names are asked for

    def open(self, path, flags):
        return os.open(self.root + path, flags)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def release(self, path, fh):
        os.close(fh)


if __name__ == "__main__":
    mfusepy.FUSE(PassThrough(sys.argv[1]), sys.argv[2], ro=True, nothreads=True)
