"""Faults in a living rank: before, inside or beside a collective that a plan names.

The plan `FOLDER/plant-RANK.json` has: `kind` of fault, `seconds` that it lasts, `after` so many
collectives, `place` (before, inside), `thread` (main, side, any), and `within`, a part of a
function's name on the stack. When the fault begins, the truth goes to `FOLDER/truth-RANK.json`:
the rank's own counts, and the collective that it stands before.
"""

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import wraps
from pathlib import Path

from on_load import on_load

MODULE = "torch.distributed.distributed_c10d"
CALLS = (
    *("init_process_group", "all_reduce", "broadcast", "all_gather", "all_gather_into_tensor"),
    *("reduce_scatter_tensor", "gather", "scatter", "barrier"),
)


def _sleep(seconds):
    time.sleep(seconds)


def _spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def _gc(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        gc.collect()


def _read(seconds):
    reader, writer = os.pipe()
    threading.Timer(seconds, os.write, (writer, b"x")).start()
    os.read(reader, 1)


def _thread(seconds):
    """A thread dies, and who waits for it waits on."""

    def die():
        raise RuntimeError("planted")

    threading.Thread(target=die).start()
    threading.Event().wait(seconds)


def _gil(seconds):
    ctypes.PyDLL(None).sleep(int(seconds))


def _stop(seconds):
    wake = f"sleep {seconds}; kill -CONT {os.getpid()}"
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    subprocess.Popen(["sh", "-c", wake], env=environment, start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)


FAULTS = {
    "sleep": _sleep,
    "spin": _spin,
    "gc": _gc,
    "read": _read,
    "thread": _thread,
    "gil": _gil,
    "stop": _stop,
}


class _Planter:
    def __init__(self, folder, rank):
        self.plan_file = Path(folder) / f"plant-{rank}.json"
        self.truth_file = Path(folder) / f"truth-{rank}.json"
        self.rank, self.left, self.lock = int(rank), None, threading.Lock()

    def due(self, call):
        """The plan, if this call is the one."""
        if not os.path.exists(self.plan_file):  # noqa: PTH110 - before each collective
            return None
        with self.lock:
            try:
                plan = json.loads(self.plan_file.read_text())
            except OSError:
                return None
            is_main = threading.current_thread() is threading.main_thread()
            if plan.get("thread", "main") not in ("any", "main" if is_main else "side"):
                return None
            if call != plan.get("within") and not _is_within(plan.get("within", "")):
                return None
            if (call == "init_process_group") != (plan.get("within") == call):
                return None
            self.left = plan.get("after", 0) if self.left is None else self.left - 1
            if self.left > 0:
                return None
            self.left = None
            self.plan_file.unlink()
            return plan

    def begin(self, plan, call, group):
        truth = {**plan, "rank": self.rank, "call": call, **_place(group), "began": time.time()}
        draft = self.truth_file.with_suffix(".draft")
        draft.write_text(json.dumps(truth))
        draft.replace(self.truth_file)
        FAULTS[plan["kind"]](plan["seconds"])


def _is_within(part):
    frame = sys._getframe()
    while part and frame is not None:
        if part in frame.f_code.co_qualname or part in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return not part


def _place(group):
    """The group's description, and the number of its next collective on this rank."""
    module, c10d = sys.modules[MODULE], sys.modules["torch._C._distributed_c10d"]
    if not module.is_initialized():
        return {"description": None, "number": None}
    description = (group or module.GroupMember.WORLD).group_desc
    entries = []
    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):
        if hasattr(c10d, name):
            entries.append(json.loads(getattr(c10d, name)()).get("entries", []))
    numbers = [
        1
        + max([e["collective_seq_id"] for e in one if e["process_group"][1] == description] or [0])
        for one in entries
    ]
    return {"description": description, "numbers": numbers}


def install(folder, rank):
    """Wrap the collectives as soon as torch has loaded them."""
    planter = _Planter(folder, rank)

    def wrap(module):
        for call in CALLS:
            setattr(module, call, _wrapped(getattr(module, call), call, planter))

    on_load(MODULE, wrap)


def _wrapped(function, call, planter):
    @wraps(function)
    def wrapper(*arguments, **named):
        plan = planter.due(call)
        if plan is None:
            return function(*arguments, **named)
        groups = [one for one in (*arguments, named.get("group")) if hasattr(one, "group_desc")]
        group = groups[0] if groups else None
        if plan.get("place") != "inside":
            planter.begin(plan, call, group)
            return function(*arguments, **named)
        is_async = named.pop("async_op", False)
        work = function(*arguments, **named, async_op=True)
        planter.begin(plan, call, group)
        return work if is_async else work and work.wait()

    return wrapper
