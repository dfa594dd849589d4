"""liar.py FILE -c PROGRAM WORDS: a python3 whose realtime is off by the seconds in a file."""

import sys
import time
from pathlib import Path

file, _, program, *words = sys.argv[1:]
truth = time.clock_gettime_ns


def clock_gettime_ns(clock):
    off_ns = round(float(Path(file).read_text()) * 1e9) if clock == time.CLOCK_REALTIME else 0
    return truth(clock) + off_ns


time.clock_gettime_ns = clock_gettime_ns
sys.argv = ["-c", *words]
exec(compile(program, "probe", "exec"), {"__name__": "__main__"})
