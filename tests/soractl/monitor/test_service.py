import json
import random
import re
import sqlite3
import urllib.request
from contextlib import closing
from dataclasses import replace

import pytest

from soractl.errors import SoractlError
from soractl.monitor import store
from soractl.monitor.service import (
    Monitor,
    MonitorOptions,
    check_options,
    chosen,
    export,
    window_data,
)
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


def test_a_page_on_all_addresses_is_named_by_this_machine(options):
    with Monitor(replace(options, bind="0.0.0.0"), print) as monitor:
        url = monitor.serve()
    assert re.fullmatch(rf"http://{this_machine().name}:[1-9]\d*/\?token=[\w-]+", url)


def test_a_span_that_is_none_is_a_bad_request(options):
    with Monitor(options, print) as monitor:
        url = monitor.serve()
        for query in (
            "",
            "begin=2&end=1",
            "begin=nan&end=5",
            "begin=0&end=1e12",
            "begin=-9e9&end=1",
            "begin=1e15&end=1000000000003600",
            "begin=1e18&end=1000000000000003600",
            f"begin={'9' * 4000}&end={'9' * 4000}",
        ):
            with pytest.raises(urllib.error.HTTPError, match="400") as error:
                get(f"{url}window?{query}")
            error.value.close()


def test_a_run_that_cannot_be_read_is_left_out_of_the_page(options, tmp_path):
    run = fleet.write_run(tmp_path / "runs", NOON, seconds=600)
    row = {"global_step": 1, "time_unix_s": NOON - 60, "ranks/slowest": "soon"}
    run.metrics.write_text(f"{json.dumps(row)}\n")
    fleet.fill(options.folder, NOON, nodes=1, seconds=60)
    data = window_data(options.folder, fleet.names(1), run, NOON - 600, NOON, 5.0)
    assert (data["run"], data["nodes"]) == (None, fleet.names(1))


def test_prometheus_reads_the_newest_numbers(options, two_gpus):
    with Monitor(options, print) as monitor:
        here = monitor.serve_metrics(":0")
        address = monitor.serve_metrics("127.0.0.1:0")
        for snapshot in monitor.snapshots():
            if snapshot.power_w:
                break
        text = get(address)
    assert re.fullmatch(rf"http://{this_machine().name}:[1-9]\d*/metrics", here)
    assert f'soractl_gpu_power_watts{{node="{this_machine().name}",gpu="1"}} 612.04' in text


def test_a_full_disk_is_reported_and_the_monitor_goes_on(options, monkeypatch):
    problems = []

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with Monitor(options, problems.append) as monitor:
        for name in ("add", "close_minutes"):
            monkeypatch.setattr(monitor._store, name, full)
        list(monitor.snapshots(0.1))
    assert len(problems) == 1
    assert "disk is full" in problems[0]


def test_a_store_with_other_tables_is_reported_and_stays_as_it_is(options):
    options.folder.mkdir()
    file, problems = options.folder / "minutes.db", []
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE minute (other)")
        other.execute("INSERT INTO minute VALUES (7)")
        other.commit()
    with Monitor(options, problems.append) as monitor:
        list(monitor.snapshots(0.1))
    reason = "no such column: id; looks are shown, but not kept"
    assert problems == [f"{options.folder}: {reason}"]
    with closing(sqlite3.connect(file)) as other:
        assert other.execute("SELECT * FROM minute").fetchall() == [(7,)]


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


def test_an_export_of_less_than_a_minute_shows_all_of_it(tmp_path, options):
    name = this_machine().name
    kept = store.Store(options.folder)
    for second in (5, 25, 45):
        chip = {(name, 0): 0.0}
        values = fleet.node_values(random.Random(1), name, 0, 0, 60, 0.1, chip, 1, 1, 1)
        kept.add(NOON + second, {name: values})
    kept.close()
    export(options, tmp_path / "page.html")
    data = data_of((tmp_path / "page.html").read_text())
    begin, end = data["begin"], data["begin"] + data["step_s"] * data["columns"]
    assert begin <= NOON + 5 < NOON + 45 <= end


def test_options_that_would_be_ignored_are_refused(tmp_path):
    none = {"is_one_look": False, "for_s": None, "tui": False, "prometheus": None, "file": None}
    page = tmp_path / "page.html"
    for given in (
        {},
        {"is_one_look": True},
        {"file": page},
        {"file": page, "for_s": 1, "tui": True},
    ):
        check_options(**none | given)
    with pytest.raises(SoractlError, match="one look: nothing for --for and --export-html to do"):
        check_options(**none | {"is_one_look": True, "for_s": 1, "file": page})
    with pytest.raises(SoractlError, match="writes what is stored: nothing for --prometheus to do"):
        check_options(**none | {"prometheus": ":0", "file": page})
    with pytest.raises(SoractlError, match="no folder"):
        check_options(**none | {"for_s": 60, "file": tmp_path / "none" / "page.html"})


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
    with Monitor(options, print) as monitor:
        for where in ("localhost", ":", ":²", ":-1", ":65536"):
            with pytest.raises(SoractlError, match="no port"):
                monitor.serve_metrics(where)
