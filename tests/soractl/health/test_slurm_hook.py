import os
import subprocess
import sys
import time

import pytest

from soractl.health import slurm_hook
from soractl.health.check import Finding, Level
from soractl.health.examine import NodeHealth, choose
from soractl.health.slurm_hook import bad_checks, good_checks, run_hook
from soractl.remote.nodes import Node

ENVIRON = {"SLURMD_NODENAME": "n1"}


@pytest.fixture
def node(tmp_path, monkeypatch):
    """This machine with Slurm's programs as scripts; `sinfo` answers what `state` holds."""
    for name, code in {
        "sinfo": 'cat "$HERE/state"',
        "scontrol": 'echo "$*" >> "$HERE/done"',
    }.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nHERE={tmp_path}\n{code}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").write_text("n1|idle|none\n")
    return tmp_path


def answer(monkeypatch, bad=(), good=()):
    monkeypatch.setattr(slurm_hook, "bad_checks", lambda row: dict.fromkeys(bad, "detail"))
    monkeypatch.setattr(slurm_hook, "good_checks", lambda row: set(good))


def done(node):
    path = node / "done"
    return path.read_text().splitlines() if path.exists() else []


def test_equal_findings_of_several_gpus_are_one_detail():
    [check, *_] = choose((), (), "prolog")
    findings = tuple(Finding(check, Level.BAD, item, "remap pending") for item in ("0", "1", "2"))
    row = NodeHealth(Node("n1"), (*findings, Finding(check, Level.GOOD, "3")))
    assert bad_checks(row) == {check.id: "[0-2]: remap pending"}
    assert good_checks(row) == set()


@pytest.mark.parametrize(("hook", "code"), [("prolog", 5), ("epilog", 5), ("hcprogram", 0)])
def test_what_is_bad_drains_the_node_with_check_and_detail(node, monkeypatch, hook, code):
    answer(monkeypatch, bad=["gpu.xid"])
    assert run_hook(hook, None, ENVIRON) == code
    assert done(node) == ["update nodename=n1 state=drain reason=soractl: gpu.xid (detail)"]


def test_a_node_of_which_nothing_is_bad_is_left_alone(node, capsys):
    assert [run_hook(hook, None, ENVIRON) for hook in ("prolog", "epilog", "hcprogram")] == [0] * 3
    assert done(node) == []
    assert capsys.readouterr() == ("", "")


def test_only_the_periodic_program_brings_a_node_back(node, monkeypatch):
    (node / "state").write_text("n1|drained|soractl: gpu.xid (79)\n")
    answer(monkeypatch, good=["gpu.xid"])
    run_hook("prolog", None, ENVIRON)
    assert done(node) == []
    run_hook("hcprogram", None, ENVIRON)
    assert done(node) == ["update nodename=n1 state=undrain"]


@pytest.mark.parametrize("hook", ["prolog", "hcprogram"])
def test_a_hook_that_breaks_ends_with_0(node, monkeypatch, capsys, hook):
    def breaks(row):
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(slurm_hook, "bad_checks", breaks)
    assert run_hook(hook, None, ENVIRON) == 0
    assert f"health --{hook}: ZeroDivisionError: odd" in capsys.readouterr().err


@pytest.mark.parametrize(("bad", "code"), [(["gpu.xid"], 5), ([], 0)])
@pytest.mark.parametrize("program", ["sinfo", "scontrol"])
def test_a_bad_node_is_kept_from_jobs_though_slurm_does_not_answer(
    node, monkeypatch, program, bad, code
):
    answer(monkeypatch, bad=bad)
    (node / program).write_text("#!/bin/sh\necho no controller >&2\nexit 1\n")
    assert run_hook("prolog", None, ENVIRON) == code


def test_a_bad_node_is_kept_from_jobs_though_slurm_hangs(node):
    (node / "sinfo").write_text("#!/bin/sh\nwhile kill -0 $PPID; do sleep 0.2; done\n")
    program = (
        "from soractl.health import slurm_hook as hook; hook.LIMIT_S = 4; "
        "hook.bad_checks = lambda row: {'gpu.xid': '79'}; "
        "hook.probe = lambda *_, **__: []; hook.judge_nodes = lambda *_: [None]; "
        "hook.run_hook('prolog', None, {})"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=30)
    assert done.returncode == 5


def test_it_ends_in_time_whatever_hangs(node, tmp_path):
    program = (
        "import time; from soractl.health import slurm_hook as hook; hook.LIMIT_S = 0.5; "
        "hook.probe = lambda *_, **__: time.sleep(60); hook.run_hook('prolog', None, {})"
    )
    began = time.monotonic()

    done = subprocess.run([sys.executable, "-c", program], timeout=30)
    assert done.returncode == 0
    assert time.monotonic() - began < 20
