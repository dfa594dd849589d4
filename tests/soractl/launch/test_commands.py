"""What `launch` and `resume` do before they start anything."""

import json
import sys

import pytest

from soractl import cli
from soractl.doctor import measure_pairs
from soractl.doctor.measure_pairs import Pairs
from soractl.launch import commands


@pytest.fixture
def launch(two_nodes, monkeypatch, capsys):
    """The exit code and the output of `launch --preflight full` where one pair of nodes is slow."""
    speeds = {("n1", "n2"): 0.0}
    monkeypatch.setattr(measure_pairs, "measure_planned", lambda *_: Pairs("two.txt", speeds))
    hosts = ("--hostfile", "hostfiles/two.txt")

    def typed(*more):
        words = ["soractl", "launch", "smoke", *hosts, "--preflight", "full", *more]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr()

    return typed


def test_slow_pairs_are_a_refusal_with_a_hint_for_programs_too(launch):
    code, written = launch("--json")
    assert code == 5
    assert json.loads(written.out)["error"] == "not started: slow nodes or links"
    assert "with --force, it starts all the same" in written.err


def test_with_force_pairs_are_not_measured(launch, monkeypatch):
    asked = []
    monkeypatch.setattr(measure_pairs, "measure_planned", lambda *_: asked.append("pairs"))
    monkeypatch.setattr(commands, "_start", lambda *_, **options: asked.append(options["force"]))
    assert launch("--force")[0] == 0
    assert asked == [True]
