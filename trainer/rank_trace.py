"""A side thread that writes a rank's collectives and Python stacks when a signal asks for them.

It answers while the main thread sleeps, reads, computes or waits in a collective. A rank that is
stopped, or that holds the interpreter's lock in C, gives no answer; that silence is the finding.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from trainer.atomic_files import write_json
from trainer.run_dir import FULL_TRACE_SIGNAL, SHORT_TRACE_SIGNAL, AttemptDir, RunDir

_RECORDERS = {"host": "_dump_fr_trace_json", "nccl": "_dump_nccl_trace_json"}  # of torch 2.13


def answer_signals(run_path: str) -> None:
    """Start the side thread; from here on both signals are blocked in every thread."""
    signals = {SHORT_TRACE_SIGNAL, FULL_TRACE_SIGNAL}
    # Neither has a handler: one that is not blocked ends the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    attempt, rank = RunDir(Path(run_path)).attempts()[-1], int(os.environ["RANK"])
    threading.Thread(
        target=_serve, args=(signals, attempt, rank), name="trace", daemon=True
    ).start()


def trace(*, full: bool) -> dict[str, Any]:
    """State of this process: collectives by recorder, stacks by thread, groups when `full`.

    A recorder is torch's flight recorder as JSON, of gloo (`host`) and of NCCL (`nccl`); there is
    none before torch is loaded. A short trace has sequence numbers alone and one stack.
    """
    main = threading.main_thread().ident
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        "pid": os.getpid(),
        "node": socket.gethostname(),
        "time_unix_s": time.time(),
        "main_thread": str(main),
        "stacks": [
            {"thread": str(ident), "name": names.get(ident, ""), "frames": _frames(frame)}
            for ident, frame in frames.items()
            if full or ident == main
        ],
        "recorders": _recorders(full),
        "groups": _groups() if full else [],
    }


def _serve(signals: set[int], attempt: AttemptDir, rank: int) -> None:
    while True:
        full = signal.sigwait(signals) == FULL_TRACE_SIGNAL
        try:
            found = {"rank": rank, **trace(full=full)}
            path = attempt.rank_trace(rank, full=full)
            path.parent.mkdir(exist_ok=True)
            write_json(path, found, durable=False, indent=None)
        except OSError as error:  # a full disk must not end the answers
            sys.stderr.write(f"rank {rank}: its trace could not be written: {error}\n")


def _recorders(full: bool) -> dict[str, Any]:
    torch = sys.modules.get("torch._C._distributed_c10d")  # never loaded here: that takes locks
    dumps = {kind: getattr(torch, name, None) for kind, name in _RECORDERS.items()}
    return {
        kind: json.loads(dump(includeCollectives=full, onlyActive=False))
        for kind, dump in dumps.items()
        if dump is not None
    }


def _groups() -> list[dict[str, Any]]:
    """Names, descriptions and ranks of this rank's process groups, oldest first."""
    module = sys.modules.get("torch.distributed.distributed_c10d")
    world = getattr(module, "_world", None)  # absent while torch is being loaded
    if world is None:
        return []
    return [
        {
            "name": group.group_name,
            "description": group.group_desc,
            "ranks": sorted(world.pg_group_ranks.get(group, ())),
        }
        for group in list(world.pg_map)
    ]


def _frames(frame: FrameType | None) -> list[list[Any]]:
    """File, line and function of each call, the innermost first."""
    found = []
    while frame is not None:
        code = frame.f_code
        found.append([code.co_filename, frame.f_lineno, code.co_qualname])
        frame = frame.f_back
    return found
