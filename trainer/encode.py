"""`python -m trainer.encode plan|work|finish`: a stage's clips and captions become features.

The job comes over stdin as JSON. `plan` and `finish` answer with one JSON object; `work` writes
shards with `--ranks` processes, one a GPU, and ends when nobody reads its output.
"""

# The processes that encode load this file again, so what they need is loaded where it is used.
import argparse
import json
import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import Connection, wait
from typing import Any

_SIGN_OF_LIFE_S = 1.0


def main() -> int:
    """The program that a node runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("plan", "work", "finish"))
    parser.add_argument("--first-rank", type=int, default=0, help="of this node")
    parser.add_argument("--ranks", type=int, default=1, help="on this node")
    parser.add_argument("--world-size", type=int, default=1, help="on all nodes")
    arguments = parser.parse_args()
    values = json.load(sys.stdin)
    if arguments.what == "work":
        return _work(values, arguments.first_rank, arguments.ranks, arguments.world_size)
    from trainer import packages

    with packages.needed():
        from trainer.data import encoding
    from trainer.settings import UserError

    do = encoding.plan if arguments.what == "plan" else encoding.finish
    try:
        answer = do(encoding.read_job(values))
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


def _work(values: dict[str, Any], first_rank: int, ranks: int, world_size: int) -> int:
    """Start a process for each rank of this node, and stay until all have ended."""
    context = multiprocessing.get_context("spawn")
    theirs, lifeline = context.Pipe(duplex=False)
    processes = [
        context.Process(
            target=_serve, args=(values, first_rank + number, number, world_size, theirs)
        )
        for number in range(ranks)
    ]
    for process in processes:
        process.start()
    theirs.close()
    while any(process.is_alive() for process in processes):
        wait([process.sentinel for process in processes if process.is_alive()], _SIGN_OF_LIFE_S)
        try:
            sys.stdout.write(".\n")
            sys.stdout.flush()
        except BrokenPipeError:
            os._exit(1)  # who asked is gone; the lifeline ends the others
    lifeline.close()
    return int(any(process.exitcode for process in processes))


def _serve(
    values: dict[str, Any], rank: int, local_rank: int, world_size: int, lifeline: Connection
) -> None:
    from trainer import packages

    with packages.needed():
        from trainer.data import encoding
    from trainer.data.clip_workers import end_with
    from trainer.settings import UserError

    threading.Thread(target=end_with, args=(lifeline,), daemon=True).start()
    try:
        encoding.work(encoding.read_job(values), rank, local_rank, world_size)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.exit(main())
