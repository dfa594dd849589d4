"""Each check of what `launch/probe.py` answers: a good, a bad, and an unreadable field."""

import pytest

from soractl.health.check import Level, judge, majority
from soractl.health.checks_launch import CHECKS
from soractl.health.facts import Facts

GOOD = {
    "ready": {"": {"says": "ok"}},
    "launch": {
        "": {
            "environment": "venv",
            "folder": "/shared/runs",
            "shared": "yes",
            "writes": "yes",
            "free bytes": str(2**42),
            "needed bytes": str(2**40),
            "needed for": "5 checkpoints of 220 GB need 1.1 TB",
            "shared memory": str(2**36),
            "head": "n1",
            "is head": "no",
            "head addresses": "10.0.0.1",
            "own name": "n2",
            "own addresses": "10.0.0.2",
            "interface": "any",
            "twin": "none",
            "port": "free",
            "port number": "29500",
            "used": "no",
            "clock offset": "0.000000",
            "clock limit": "50.0",
            "missing": "none",
        }
    },
    "wandb": {"": {"login": "yes"}},
    "version": {"torch": {"version": "2.13.0"}},
    "packages": {"": {"digest": "131 packages with digest abc"}},
    "name": {"n3": {"addresses": "10.0.0.3", "answers": "yes"}},
    "weights": {"org/t5": {"there": "yes", "whole": "yes", "files": "9 of 9500 bytes"}},
    "data": {"clips.csv": {"size": "812 bytes", "clips": "all"}},
    "features": {"features": {"there": "yes"}},
}
# By check: a value that is not good, and the sentence about it.
BAD = {
    "setup.programs": ("no torchrun in /env/bin", "no torchrun in /env/bin"),
    "setup.environment": ("system", "Python is the system's own"),
    "setup.wandb": ("no", "no login for Weights & Biases"),
    "same.versions": ("2.12.0", "2.12.0, most have 2.13.0"),
    "same.packages": ("9 packages", "9 packages, most have 131 packages with digest abc"),
    "folder.shared": (
        "no",
        "/shared/runs is not the folder that this machine knows by that name",
    ),
    "folder.writable": ("no", "/shared/runs cannot be written there"),
    "folder.room": (str(2**29), "0.5 GiB are free where the runs lie"),
    "folder.room_to_come": (
        str(2**43),
        "4.4 TB are free where the runs lie, 5 checkpoints of 220 GB need 1.1 TB",
    ),
    "folder.shared_memory": ("4096", "/dev/shm is full: 4.1 kB are free, ranks need it"),
    "name.head": ("127.0.1.1", "it takes the head's name n1 for its own"),
    "name.own": ("127.0.1.1", "its own name n2 means 127.0.1.1 there"),
    "name.addresses": ("10.9.9.9", "10.9.9.9, most have 10.0.0.3"),
    "name.answers": ("no", "does not answer by TCP within 1 s"),
    "name.twice": ("n1", "it is n1 under another name; a machine can be a node only once"),
    "port.free": ("taken", "port 29500 is taken; master_port names another one"),
    "port.reserved": ("GPU 0 is used by 002-smoke", "GPU 0 is used by 002-smoke"),
    "time.offset": ("-0.350000", "its clock is 350 ms behind this machine's"),
    "stage.start": ("start.pth does not exist", "start.pth does not exist"),
    "stage.weights": ("no", "not there"),
    "stage.weights_whole": ("a.safetensors has 9 of 10 bytes", "a.safetensors has 9 of 10 bytes"),
    "stage.weights_same": ("8 of 8500 bytes", "8 of 8500 bytes, most have 9 of 9500 bytes"),
    "stage.table": ("811 bytes", "811 bytes, most have 812 bytes"),
    "stage.table_there": ("none", "not there"),
    "stage.clips": ("2 of 64: a.mp4 b.mp4", "not there: 2 of 64: a.mp4 b.mp4"),
    "stage.features": ("no", "no, expected yes"),
}
CHECK = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)


def node(check=None, value=None):
    """A good node, but for one field of the first thing that a check judges; None: without it."""
    items = {
        kind: {item: dict(fields) for item, fields in things.items()}
        for kind, things in GOOD.items()
    }
    if check:
        [(_, fields)] = items[check.of].items()
        fields[check.field] = value
        if value is None:
            del fields[check.field]
    return Facts(items)


def findings(check, facts):
    most = majority(check, [facts, node(), node()])
    return [(finding.level, finding.reason) for finding in judge(check, facts, most)]


@CHECK
def test_a_good_node_is_good_and_what_was_not_asked_is_not_judged(check):
    assert findings(check, node()) == [(Level.GOOD, "")]
    assert findings(check, node(check, None)) == []


@CHECK
def test_a_bad_node_is_one_sentence(check):
    value, sentence = BAD[check.id]
    assert findings(check, node(check, value)) == [(check.level, sentence)]


@CHECK
def test_what_cannot_be_read_is_unknown(check):
    assert [level for level, _ in findings(check, node(check, "?"))] == [Level.UNKNOWN]


def test_every_check_has_a_name_of_its_own_and_a_remedy():
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    assert [check.id for check in CHECKS if not check.remedy or check.id.count(".") != 1] == []


def test_a_folder_that_is_not_the_shared_one_is_not_blamed_for_being_read_only():
    [check] = [check for check in CHECKS if check.id == "folder.writable"]
    facts = node(check, "no")
    facts.items["launch"][""]["shared"] = "no"
    assert findings(check, facts) == [(Level.GOOD, "")]
