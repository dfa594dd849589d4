"""Constants that several kernels share: the term under roots, and the processors of a GPU."""

EPS = 1e-6  # of every norm of the transformer
PROCESSORS = 132  # of an H100 or H200
FULL_GRID = 8 * PROCESSORS  # programs that occupy all of them
