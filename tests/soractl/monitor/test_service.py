import json
import re
import sqlite3
import urllib.request

import pytest

from soractl.errors import SoractlError
from soractl.monitor import store
from soractl.monitor.service import Monitor, MonitorOptions, chosen, export
from soractl.remote.nodes import NodeSource, this_machine
from tests.soractl.monitor import fleet

NOON = 1_796_040_000


@pytest.fixture
def options(tmp_path):
    source = NodeSource((this_machine(),), "this machine")
    return MonitorOptions(source=source, folder=tmp_path / "store", every_s=1.0, port=0)


def data_of(html):
    return json.loads(re.search(r'id="data">(.*?)</script>', html)[1])


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def test_what_is_seen_is_stored_and_shown(options, two_gpus):
    problems = []
    name = this_machine().name
    with Monitor(options, problems.append) as monitor:
        url = monitor.serve()
        for snapshot in monitor.snapshots():
            if snapshot.power_w:
                break
        data = data_of(get(url))
        window = json.loads(
            get(f"{url}window?begin={snapshot.unix_s - 600}&end={snapshot.unix_s + 1}")
        )
        node = json.loads(get(f"{url}node?name={name}"))
    assert (data["live"], data["nodes"], data["now"]["nodes"][0]["gpus"][0]["power_w"]) == (
        True,
        [name],
        612.04,
    )
    assert window["maps"]["power"]["rows"] == [[name, 0], [name, 1]]
    assert node["facts"]["GPU 0"]["name"] == "NVIDIA H100"
    assert problems == []


def test_a_second_monitor_of_a_store_is_refused(options):
    with Monitor(options, print), pytest.raises(SoractlError, match="another monitor") as error:
        Monitor(options, print).__enter__()
    assert error.value.exit_code == 5


def test_a_span_that_is_none_is_a_bad_request(options):
    with Monitor(options, print) as monitor:
        url = monitor.serve()
        for query in (
            "",
            "begin=2&end=1",
            "begin=nan&end=5",
            "begin=0&end=1e12",
            "begin=-9e9&end=1",
        ):
            with pytest.raises(urllib.error.HTTPError, match="400") as error:
                get(f"{url}window?{query}")
            error.value.close()


def test_prometheus_reads_the_newest_numbers(options, two_gpus, free_port):
    port = free_port
    with Monitor(options, print) as monitor:
        monitor.serve_metrics(f":{port}")
        for snapshot in monitor.snapshots():
            if snapshot.power_w:
                break
        text = get(f"http://127.0.0.1:{port}/metrics")
    assert f'soractl_gpu_power_watts{{node="{this_machine().name}",gpu="1"}} 612.04' in text


def test_a_disk_that_is_full_is_said_and_the_monitor_goes_on(options, monkeypatch):
    problems = []

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with Monitor(options, problems.append) as monitor:
        monkeypatch.setattr(monitor._store, "add", full)
        for number, _ in enumerate(monitor.snapshots(), start=1):
            if number == 2:
                break
    assert len(problems) == 1
    assert "disk is full" in problems[0]


def test_an_end_after_some_seconds_summarises_what_is_over(options):
    with Monitor(options, print) as monitor:
        assert list(monitor.snapshots(0.1))
    assert store.last_look_unix_s(options.folder) is not None


def test_an_export_is_small_and_holds_everything(tmp_path):
    names = fleet.names(3)
    fleet.fill(tmp_path / "store", NOON, nodes=3, seconds=7200)
    run = fleet.write_run(tmp_path / "runs", NOON, seconds=7200)
    source, found = chosen(",".join(names) + ",", None, tmp_path / "runs", {})
    file = tmp_path / "page.html"
    options = MonitorOptions(source=source, run=found, folder=tmp_path / "store")
    assert export(options, file) == str(file)
    data = data_of(file.read_text())
    assert (data["live"], data["nodes"], data["run"]["name"]) == (False, names, run.name)
    assert {mark["kind"] for mark in data["marks"]} == {
        *("attempt", "save", "interruption", "quarantine", "clock"),
    }
    assert set(data["node_data"]) == set(names)
    assert file.stat().st_size < 500_000


def test_nothing_to_export_is_nothing_suitable(tmp_path, options):
    with pytest.raises(SoractlError, match="nothing is stored") as error:
        export(options, tmp_path / "page.html")
    assert error.value.exit_code == 6


def test_without_runs_the_nodes_are_watched_alone(tmp_path):
    source, run = chosen("n[1-2],", None, tmp_path / "runs", {})
    assert ([node.name for node in source.nodes], run) == (["n1", "n2"], None)
    with pytest.raises(SoractlError, match="there is no run"):
        chosen("n1,", "latest", tmp_path / "runs", {})


def test_a_port_of_prometheus_that_is_none_is_a_bad_request(options):
    with Monitor(options, print) as monitor, pytest.raises(SoractlError, match="no port"):
        monitor.serve_metrics("localhost")
