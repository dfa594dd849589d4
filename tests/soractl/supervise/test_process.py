import json
import os
from pathlib import Path

import pytest

from soractl.supervise.lease import read_holder
from soractl.supervise.process import cluster_of, main
from tests.receiver import receiver
from tests.waiting import wait_for
from trainer.run_dir import RunDir, create_run


def test_the_cluster_is_that_of_the_host_file(workplace):
    file = workplace.write("hostfiles/three.txt", "n[1-3] slots=2\n")
    workplace.write("hostfiles/three.toml", "[supervise]\nmin_nodes = 2\n")
    run = create_run(workplace.folder, "smoke")
    run.run_json.write_text(json.dumps({"hostfile": str(file)}))
    assert cluster_of(run).supervise.min_nodes == 2


def test_a_typo_in_the_clusters_settings_ends_it_with_a_sentence_and_a_lease_that_has_ended(
    workplace, capsys
):
    file = workplace.write("hostfiles/here.txt", "localhost slots=2\n")
    workplace.write("hostfiles/here.toml", "[supervise]\nmin_ndoes = 2\n")
    run = create_run(workplace.folder, "smoke")
    run.run_json.write_text(json.dumps({"hostfile": str(file)}))
    assert main(str(run.path), watch_only=True) == 2
    holder = read_holder(run.supervisor)
    assert (holder.ended, holder.state) == (True, "failed")
    assert "min_ndoes" in holder.reason
    assert "min_ndoes" in capsys.readouterr().err


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


@pytest.mark.slow  # a supervisor's own process sees a run to its end
def test_a_supervisors_messages_arrive_before_it_leaves_and_its_urls_stand_nowhere(
    workplace, monkeypatch
):
    with receiver() as server:
        secret = workplace.write("webhook", f"{server.url}/services/very-secret\n")
        workplace.write("hostfiles/here.txt", "localhost slots=2\n")
        workplace.write(
            "hostfiles/here.toml",
            f'environment = "{workplace.bin}"\n[notify]\nwebhook_file = "{secret}"\n',
        )
        monkeypatch.setenv("SORACTL_DEAD_MAN_URL", f"{server.url}/ping-very-secret")
        workplace.ranks("time.sleep(1); [(train(s, 60), time.sleep(0.1)) for s in range(1, 61)]")
        workplace.soractl("launch", "smoke", "--detach", "--hostfile", "here.txt")
        started = json.loads(workplace.soractl("supervise", "--json").stdout)
        run = RunDir(workplace.folder / "runs" / "001-smoke")
        words = Path(f"/proc/{started['pid']}/cmdline").read_bytes()
        wait_for(lambda: read_holder(run.supervisor).ended)
        wait_for(lambda: not Path(f"/proc/{started['pid']}").exists())
    assert b"secret" not in words
    assert ("GET", "/ping-very-secret", None) in server.got
    texts = [body["text"] for method, _, body in server.got if method == "POST"]
    assert texts == ["001-smoke has ended: all nodes ended with exit code 0"]
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert [path for path in files if b"very-secret" in path.read_bytes()] == []
    assert "finished by webhook" in run.events.read_text()
