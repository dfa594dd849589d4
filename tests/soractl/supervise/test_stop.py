import json

import pytest

from soractl.errors import INTERRUPTED, Fault, FaultKind, Interrupted, SoractlError
from soractl.processes.selection import Selection
from soractl.remote.connections import Connections
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult
from soractl.runs.events import read_events
from soractl.supervise.stop import left_on, stop_run
from tests.waiting import wait_for
from trainer.run_dir import create_run

SAVES_AT_TERM = """
    os.environ["RANK"] = "0"
    def leave(*_):
        save(7); os._exit(143)
    signal.signal(signal.SIGTERM, leave)
    train(7, 90)
    print("ready", flush=True)
    time.sleep(600)
"""
# scan knows a rank by its environment, which a process cannot change for itself
AS_RANK = """
    import subprocess
    if "RANK" not in os.environ:
        environment = {**os.environ, "RANK": "0"}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment).returncode)
"""


def test_a_run_that_never_started_cannot_be_stopped(tmp_path):
    with Connections() as remote, pytest.raises(SoractlError, match="never started"):
        stop_run(create_run(tmp_path, "smoke"), remote, timeout_s=1)


def test_ranks_save_and_leave_and_the_stop_is_noted_first(workplace, start):
    run = start("", code=AS_RANK + SAVES_AT_TERM)
    log = run.attempts()[0].node_log(run.attempts()[0].path.glob("*.sh").__next__().stem)
    wait_for(lambda: log.exists() and "ready" in log.read_text())
    done = json.loads(workplace.soractl("stop", "--json").stdout)
    assert (done["ranks"], done["left"]) == (1, {})
    assert done["checkpoint"] == "epoch0-global_step7"
    assert [event.kind for event in read_events(run)][-1] == "stop requested"


def test_without_a_rank_it_refuses_and_says_what_ends_the_rest(workplace, start):
    start("", code="time.sleep(600)")
    refused = workplace.soractl("stop", code=6)
    assert "hint: `soractl kill 001-smoke`" in refused.stderr


EMPTY = (
    "=== environ 0\n9 me\n=== owners 0\n"
    f"9/stat:9 (sh) S 0 9 9 {'0 ' * 15}6\n=== stat 0\n=== cmdline 0\n=== self 9\n"
)


def left(fault):
    """What is left on n1, where nothing is, and on n2, which gives no answer."""

    def remote(node, request, deadline_s):
        if node.name == "n2":
            return NodeResult(node, fault=fault)
        return NodeResult(node, stdout=EMPTY, exit_code=0)

    return left_on([Node("n1"), Node("n2")], remote, Selection(run_id="/r"), 0)


def test_a_node_that_gives_no_answer_is_not_taken_for_an_empty_one():
    assert left(Fault(FaultKind.UNREACHABLE, "no route")) == ((), ("n2",))


def test_ctrl_c_amid_the_last_look_is_no_end_of_all_ranks():
    with pytest.raises(Interrupted, match="asked to save and leave"):
        left(INTERRUPTED)
