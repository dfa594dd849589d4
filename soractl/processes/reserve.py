"""Places of a node, locked for an attempt; runs there, and imports nothing of soractl.

A place is a GPU (by its UUID), a rank slot of a machine without GPUs, or a port. Its lock is an
`flock` of a file in a folder of this machine: SORACTL_LOCKS, else /run/lock where everybody may
write there, else /dev/shm. The session that runs the attempt's script inherits the locks, so they
end with it, however it ends. Since ranks may outlive it, a lock that is free is taken only when no
process of the run that had it is left.

The argument is a JSON object: run, attempt, ranks, gpus (as in CUDA_VISIBLE_DEVICES; none: the
first ones), port (or null), script (or null: look, and take nothing).
"""

import errno
import fcntl
import functools
import json
import os
import pwd
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
NVIDIA_SMI_S = 10
LEAST_SLOTS = 16  # a machine without GPUs has one a core; small ones try small runs side by side
OTHER_STARTS_S = 10.0  # how long other starts on this node are waited for
NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
Holder = tuple[str, str, str]  # run, user, since; empty where not known


def refuse(sentence: str) -> NoReturn:
    """End with a sentence for the operator."""
    sys.exit(f"error: {sentence}")


def lock_folder() -> Path:
    """Folder of this machine's locks, for all users the same."""
    if named := os.environ.get("SORACTL_LOCKS"):
        return Path(named)
    usual = Path("/run/lock")
    everybody = stat.S_IRWXO | stat.S_ISVTX
    with suppress(OSError):
        if usual.stat().st_mode & everybody == everybody:
            return usual
    return Path("/dev/shm")


def open_lock(name: str) -> int:
    """Descriptor of a place's file; made for all users if it is not there."""
    path = lock_folder() / f"soractl-{name}"
    flags = os.O_RDWR | os.O_NOFOLLOW
    umask = os.umask(0)
    try:
        while True:
            # Never with O_CREAT if it exists: fs.protected_regular forbids that for another's file.
            with suppress(FileNotFoundError):
                return os.open(path, flags)
            with suppress(FileExistsError):
                return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    finally:
        os.umask(umask)


def try_lock(descriptor: int) -> bool:
    """Lock an open file; False while another process holds it.

    A file system without locks grants it: then the processes of the run that had it decide alone.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
    return True


@contextmanager
def alone() -> Iterator[None]:
    """One start at a time on this node, so that of two exactly one gets its places."""
    descriptor = open_lock("start")
    give_up = time.monotonic() + OTHER_STARTS_S
    while not try_lock(descriptor):
        if time.monotonic() > give_up:
            refuse("other starts on this node do not end")
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(descriptor)


def gpus() -> dict[str, str]:
    """UUID of each GPU by its index; none where the driver names none."""
    try:
        done = subprocess.run(
            NVIDIA_SMI,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_S,
        )
    except subprocess.TimeoutExpired:
        refuse("nvidia-smi is stuck, so no GPU can be reserved")
    except OSError:
        return {}
    if done.returncode:
        return {}
    return dict(re.findall(r"^([0-9]+), *([\w-]+)$", done.stdout, flags=re.MULTILINE))


def gpu_places(chosen: Sequence[str], there: dict[str, str]) -> dict[str, str]:
    """Label by place of the GPUs that a plan chose by index, by UUID, or by its beginning."""
    places = {}
    for choice in chosen:
        known = [
            index
            for index, uuid in there.items()
            if choice == index or (choice.startswith("GPU-") and uuid.startswith(choice))
        ]
        index = known[0] if len(known) == 1 else choice
        places[f"gpu-{re.sub('[^A-Za-z0-9-]', '_', there.get(index, choice))}"] = index
    return places


def read_holder(descriptor: int) -> dict[str, Any]:
    """Note that the last holder wrote of itself."""
    with suppress(ValueError, OSError):
        record = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(record, dict) and isinstance(record.get("run"), str):
            return record
    return {}


@functools.cache
def has_processes(run: str) -> bool:
    """A process of a run lives here; another user's ranks are known by their command line."""
    mark, argument = f"SORACTL_RUN_ID={run}".encode(), run.encode()
    for process in Path("/proc").glob("[0-9]*"):
        for file, words in (("environ", mark), ("cmdline", argument)):
            with suppress(OSError):
                if words in (process / file).read_bytes().split(b"\0"):
                    return True
    return False


def holder_of(descriptor: int) -> dict[str, Any] | None:
    """Holder of a place; None when this process has locked it just now."""
    record = read_holder(descriptor)
    if not try_lock(descriptor):
        return record
    return record if record and has_processes(record["run"]) else None


class Places:
    """Places that this process has locked, and those that others use."""

    def __init__(self, question: dict[str, Any]) -> None:
        self.question = question
        self.held: list[int] = []
        self.used: dict[Holder, dict[str, list[str]]] = {}

    def take(self, kind: str, places: dict[str, str], count: int) -> None:
        """Lock `count` of the places; if so many are not free, note who uses the others."""
        used = []
        for place, label in places.items():
            if count == 0:
                return
            descriptor = open_lock(place)
            holder = holder_of(descriptor)
            if holder is None:
                self.held.append(descriptor)
                count -= 1
            else:
                os.close(descriptor)
                used.append((described(holder), label))
        for who, label in used if count else ():
            self.used.setdefault(who, {}).setdefault(kind, []).append(label)

    def record(self) -> None:
        """Write into each file who holds it."""
        who = {"run": self.question["run"], "attempt": self.question["attempt"]}
        text = json.dumps({**who, "user": user_name(), "since_unix_s": time.time()}).encode()
        for descriptor in self.held:
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))

    def free(self) -> None:
        """Unlock all of them."""
        while self.held:
            os.close(self.held.pop())


def user_name() -> str:
    """The name of this user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


def described(record: dict[str, Any]) -> Holder:
    """A holder's record for people; any user can write such a file, so nothing in it is trusted."""
    if not record:
        return "", "", ""
    run, user = (
        "".join(c for c in str(record.get(key, "?")) if c.isprintable())[-80:]
        for key in ("run", "user")
    )
    since = ""
    with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
        then, now = time.localtime(float(record["since_unix_s"])), time.localtime()
        today = then[:3] == now[:3]
        since = time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", then)
    return Path(run).name, user, since


def numbers(labels: Sequence[str]) -> str:
    """`0-3,5` of indices; other labels as they are."""
    if not all(label.isdecimal() for label in labels):
        return ", ".join(labels)
    ranges: list[list[int]] = []
    for number in sorted(int(label) for label in labels):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{low}-{high}" if low < high else f"{low}" for low, high in ranges)


def sentence(holder: Holder, kinds: dict[str, list[str]]) -> str:
    """`GPUs 0-7 and port 29500 are used by 002-smoke of ana since 02:10`."""
    names = {"gpu": "GPU", "slot": "rank slot", "port": "port"}
    parts = [
        f"{names[kind]}{'s' if len(labels) > 1 else ''} {numbers(labels)}"
        for kind, labels in kinds.items()
    ]
    verb = "are" if sum(map(len, kinds.values())) > 1 else "is"
    run, user, since = holder
    who = f"{run} of {user}{f' since {since}' if since else ''}" if run else "another process"
    return f"{' and '.join(parts)} {verb} used by {who}"


def reserve(question: dict[str, Any]) -> list[int]:
    """Lock all that an attempt uses on this node; the sentence of a refusal ends the program."""
    there, ranks, port = gpus(), question["ranks"], question["port"]
    chosen = question["gpus"] or [str(index) for index in range(ranks)]
    slots = max(LEAST_SLOTS, os.cpu_count() or 1, ranks)
    with alone():
        places = Places(question)
        if there:
            wanted = gpu_places(chosen[:ranks], there)
            places.take("gpu", wanted, len(wanted))
        else:
            places.take("slot", {f"slot-{i}": str(i) for i in range(slots)}, ranks)
        if port is not None:
            places.take("port", {f"port-{port}": str(port)}, 1)
        if places.used:
            refuse("; ".join(sentence(holder, kinds) for holder, kinds in places.used.items()))
        if question["script"] is None:
            places.free()
        else:
            places.record()
        return places.held


def begin(question: dict[str, Any], held: Sequence[int]) -> None:
    """Start the script in a session of its own, which holds the locks.

    The run's name is in the environment of its first process too, so that whoever looks for the
    run's processes finds it.
    """
    null = subprocess.DEVNULL
    subprocess.Popen(
        ["bash", question["script"]],
        stdin=null,
        stdout=null,
        stderr=null,
        start_new_session=True,
        pass_fds=held,
        env={**os.environ, "SORACTL_RUN_ID": question["run"]},
    )


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    try:
        places_held = reserve(asked)
    except OSError as error:
        refuse(f"no GPU, slot or port can be reserved in {lock_folder()}: {error.strerror}")
    if asked["script"] is not None:
        begin(asked, places_held)
