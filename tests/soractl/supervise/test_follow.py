import json

import pytest

from soractl.supervise.follow import given_up
from soractl.supervise.lease import Lease
from trainer.run_dir import create_run


def test_a_run_is_given_up_when_its_supervisor_left_so(tmp_path):
    run = create_run(tmp_path, "smoke")
    assert given_up(run) is None
    lease = Lease(run.supervisor)
    lease.take()
    lease.renew("given up", "twice the same")
    assert given_up(run) is None
    lease.renew("given up", "twice the same", ended=True)
    assert given_up(run) == "twice the same"


@pytest.mark.slow  # two attempts and three commands in processes of their own
def test_launch_supervise_returns_the_end_of_the_last_attempt(workplace, fails_once):
    fails_once("sys.exit(1)")
    done = workplace.soractl("launch", "smoke", "--supervise")
    assert "crashed" in done.stderr
    assert "001-smoke ended well at step 6" in done.stdout
    shown = json.loads(workplace.soractl("status", "--json").stdout)
    assert (shown["attempt"], shown["supervisor"]["state"]) == (2, "finished")
    assert "supervisor  has left, finished" in workplace.soractl("status").stdout
