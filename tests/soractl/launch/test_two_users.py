"""Two users of one cluster, over real ssh, with one folder of runs."""

import re
import tempfile
from pathlib import Path

import pytest

from tests.soractl.launch.accounts import Place, User

pytestmark = [pytest.mark.ssh, pytest.mark.slow]
HOSTFILE = ("--hostfile", "nodes.txt")
UNSEEN = "error: 001-smoke belongs to ana, whose processes cannot be seen"
NOT_TO_START = "error: 001-smoke belongs to ana; another user cannot start an attempt of it"
REFUSED = {
    ("kill", "1"): f"{UNSEEN}; nothing was stopped",
    ("stop", "1"): f"{UNSEEN}; nothing was stopped",
    ("stacks", "1"): UNSEEN,
    ("diagnose", "1"): UNSEEN,
    ("resume", "1"): NOT_TO_START,
    ("resume", "1", "--force"): NOT_TO_START,
    ("resume", "1", "--dry-run"): NOT_TO_START,
    ("supervise", "1"): NOT_TO_START,
}


@pytest.fixture
def place(start_cluster):
    with tempfile.TemporaryDirectory() as folder:
        yield Place(start_cluster(3), Path(folder))


def test_what_is_another_users_is_named_and_left_alone(place):
    ana, ben = User("ana", 4001, place), User("ben", 4002, place)
    place.set_up([ana, ben])
    shared = place.folder / "runs"
    shared.mkdir()
    shared.chmod(0o1777)
    runs = ("--runs", str(shared))
    ana.ranks("save(1)\ntrain(1, 5)\nprint('a line', flush=True)\ntime.sleep(1000)")
    assert ana.soractl("launch", "smoke", "--detach", "--force", *HOSTFILE, *runs).returncode == 0

    shown = ben.soractl("status", "1", *runs)
    assert (shown.returncode, "state      unknown " in shown.stdout) == (0, True)
    assert "owner      ana; the processes of another user cannot be seen" in shown.stdout
    listed = ben.soractl("runs", *runs).stdout
    assert "belongs to ana, whose processes cannot be seen" in listed
    assert ben.soractl("logs", "1", *runs).stdout.strip() == "a line"
    before = sorted(path for path in shared.rglob("*"))
    for words, sentence in REFUSED.items():
        done = ben.soractl(*words, *runs)
        first = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
        assert (done.returncode, first) == (5, sentence), words
    assert ben.soractl("kill", *runs).stdout == "no run of yours is running\n"
    everything = ben.soractl("kill", "--all", *HOSTFILE)
    assert everything.stdout.startswith("nothing of your runs on ")
    start = ("launch", "smoke", "--detach", "--force", *HOSTFILE, *runs)
    refused = ben.soractl(*start)
    used = r"error: n1: rank slots 0-1 and port 29500 are used by 001-smoke of ana since \d\d:\d\d"
    slots = refused.stderr.splitlines()[-1]
    assert refused.returncode == 5
    assert re.fullmatch(used, slots) or "port 29500 is used by 001-smoke of ana since" in slots
    left = {path for path in shared.rglob("*") if ".numbers" not in path.parts}
    assert left == {path for path in before if ".numbers" not in path.parts}

    assert "state      running " in ana.soractl("status", "1", *runs).stdout
    assert ana.soractl("kill", "1", "--grace", "5", *runs).returncode == 0
    ben.ranks("time.sleep(1000)")
    assert ben.soractl(*start).returncode == 0
    seen = ana.soractl("runs", *runs).stdout
    assert [re.split(r"  +", line)[1] for line in seen.splitlines()[1:3]] == ["unknown", "stopped"]
    killed = ben.soractl("kill", "--grace", "5", *runs)
    assert (killed.returncode, "processes stopped" in killed.stdout) == (0, True)
