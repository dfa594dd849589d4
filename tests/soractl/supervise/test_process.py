import json
import os

import pytest

from soractl.supervise.lease import read_holder
from soractl.supervise.process import cluster_of
from trainer.run_dir import RunDir, create_run


def test_the_cluster_is_that_of_the_host_file(workplace):
    file = workplace.write("hostfiles/three.txt", "n[1-3] slots=2\n")
    workplace.write("hostfiles/three.toml", "[supervise]\nmin_nodes = 2\n")
    run = create_run(workplace.folder, "smoke")
    run.run_json.write_text(json.dumps({"hostfile": str(file)}))
    assert cluster_of(run).supervise.min_nodes == 2


@pytest.mark.slow  # four commands, one of which waits for the end
def test_a_second_supervisor_stands_by(workplace):
    workplace.ranks("time.sleep(1); [(train(s, 90), time.sleep(0.1)) for s in range(1, 91)]")
    workplace.soractl("launch", "smoke", "--detach")
    first = json.loads(workplace.soractl("supervise", "--json").stdout)
    second = json.loads(workplace.soractl("supervise", "--json").stdout)
    assert (first["stands_by"], second["stands_by"]) == (False, True)
    run = RunDir(workplace.folder / "runs" / "001-smoke")
    workplace.soractl("follow", "latest")
    assert read_holder(run.supervisor).pid == first["pid"]
    os.kill(second["pid"], 15)
