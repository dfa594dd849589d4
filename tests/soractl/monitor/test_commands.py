import json

import pytest

from soractl.remote.nodes import this_machine

pytestmark = pytest.mark.slow  # processes of their own


def test_one_look_as_json(workplace, two_gpus):
    found = json.loads(workplace.soractl("monitor", "--json").stdout)
    assert found["schema_version"] == 1
    [node] = found["nodes"]
    assert (node["node"], node["error"]) == (this_machine().name, None)
    assert [gpu["power_w"] for gpu in node["gpus"]] == [612.04, 612.04]


def test_some_seconds_without_anybody_there_become_a_page(workplace, two_gpus):
    options = ("--port", "0", "--store", "kept", "--every", "0.5")
    done = workplace.soractl("monitor", *options, "--for", "4", "--export-html", "page.html")
    address, file = done.stdout.splitlines()
    assert address.startswith("http://127.0.0.1:")
    assert file == "page.html"
    assert "1 node, 1 answer, GPUs draw 1.2 kW" in done.stderr
    assert "NVIDIA H100" in (workplace.folder / file).read_text()
    later = workplace.soractl("monitor", "--store", "kept", "--export-html", "again.html")
    assert later.stdout == "again.html\n"


def test_the_terminal_shows_the_nodes(workplace, two_gpus):
    options = ("--port", "0", "--store", "kept", "--every", "0.5", "--for", "3")
    done = workplace.soractl("monitor", *options, "--tui")
    assert "NODE" in done.stdout
    assert "1 node, 1 answer" in done.stdout


def test_what_cannot_be_done_says_what_to_type(workplace):
    done = workplace.soractl("monitor", "--store", "kept", "--prometheus", "here", code=2)
    assert "hint: --prometheus :9460" in done.stderr
    done = workplace.soractl("monitor", "--store", "none", "--export-html", "page.html", code=6)
    assert "hint: `soractl monitor` collects" in done.stderr
