"""The program on every rank, `trainer/train.py RUN_DIR`."""

# The processes that decode clips load this file again, so what training needs is loaded below.
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # started by its path
    # buckets differ in size: what one leaves of a GPU's memory would not hold the next
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    from trainer import rank_trace

    rank_trace.answer_signals(sys.argv[1])  # before the long imports, which may hang as well
    from trainer import packages

    with packages.needed():
        from trainer.rank_process import main
    main(sys.argv[1])
