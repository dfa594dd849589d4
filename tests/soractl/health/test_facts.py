import pytest

from soractl.health.facts import parse
from tests.soractl.health import planted

SMI_OF_535 = """\
Driver Version                            : 535.161.08
GPU 00000000:18:00.0
    Clocks Throttle Reasons
        HW Slowdown                       : Not Active
            HW Thermal Slowdown           : Active
    Processes
        Process ID                        : 7
            Name                          : python
        Process ID                        : 8
            Name                          : python
"""


def probed(tmp_path, changes=()):
    return parse(planted.probe(planted.plant(tmp_path, changes)))


def test_fields_of_a_node_by_kind_and_thing(node):
    assert sorted(node.items) == [
        *("cpu", "disk", "driver", "edac", "eth", "governor", "gpu", "ib", "kernel", "limits"),
        *("memory", "mount", "nvidia", "nvme", "raid", "share", "system"),
    ]
    assert node.missing == {}
    assert list(node.of("gpu")) == ["0", "1", "2", "3"]
    assert list(node.of("ib")) == ["mlx5_0/1", "mlx5_4/1", "mlx5_bond_0/1"]
    assert node.of("disk") == {
        "/": {"space": "34%", "inodes": "4%"},
        "/dev/shm": {"space": "0%", "inodes": "1%"},
    }
    assert node.of("cpu") == {
        "": {"count": "2", "present": "0-1", "online": "0-1", "current_clocksource": "tsc"}
    }
    assert {
        name: node.one("system", name)
        for name in ("vm/swappiness", "daemons", "manager", "zombies", "gpus_on_bus", "switches")
    } == {
        "vm/swappiness": "10",
        "daemons": "chronyd",
        "manager": "yes",
        "zombies": "0",
        "gpus_on_bus": "4",
        "switches": "1",
    }


def test_a_df_of_another_make_is_asked_twice(tmp_path, node):
    root = planted.plant(tmp_path)
    df = root / "bin/df"
    df.write_text(df.read_text().replace("--output", "--other"))
    assert parse(planted.probe(root)).of("disk") == node.of("disk")


@pytest.mark.slow
def test_a_df_that_does_not_answer_leaves_disks_unknown_and_nothing_else(tmp_path, node):
    root = planted.plant(tmp_path)
    (root / "bin/df").write_text("#!/bin/sh\nexec sleep 20\n")
    found = parse(planted.probe(root))
    assert found.missing == {"disk": "df did not answer in time"}
    assert {**found.items, "disk": node.of("disk")} == node.items


@pytest.mark.slow
def test_links_that_cannot_be_asked_for_hide_nothing_else(tmp_path, node):
    root = planted.plant(tmp_path)
    smi = root / "bin/nvidia-smi"
    smi.write_text(smi.read_text().replace("'nvlink -s')", "'nvlink -s') exec sleep 60 ;; never)"))
    one = parse(planted.probe(root))
    assert (one.one("nvidia", "state"), list(one.of("gpu"))) == ("ok", list(node.of("gpu")))
    assert "links" not in one.of("gpu")["0"]


def test_a_node_whose_driver_hangs_says_all_else(tmp_path, node):
    root = planted.plant(tmp_path)
    (root / "bin/nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    one = parse(planted.probe(root, limit_s="0.5"))
    assert one.one("nvidia", "state") == "did not answer in time"
    assert one.missing == {"gpu": "nvidia-smi: did not answer in time"}
    assert (one.of("memory"), one.of("kernel")) == (node.of("memory"), node.of("kernel"))


def test_links_between_gpus_are_counted(node):
    assert {name: node.of("gpu")["3"][name] for name in ("links", "links down", "link errors")} == {
        "links": "18",
        "links down": "0",
        "link errors": "0",
    }


def test_processes_are_counted_by_their_state(tmp_path):
    stats = {
        "proc/90/stat": "90 (dead) Z 1 90 90",
        "proc/91/stat": "91 (a ) D name) D 1 91 91",
        "proc/77/stat": None,
    }
    system = probed(tmp_path, stats)
    assert [system.one("system", name) for name in ("zombies", "stuck", "daemons")] == [
        *("1", "1 a ) D name", "none")
    ]


def test_a_process_that_ends_while_it_is_read_hides_no_other(tmp_path):
    changes = {"proc/79/stat": "", "proc/92/stat": "92 (two\nlines) S 1) D 1 92 92"}
    system = probed(tmp_path, changes)
    assert [system.one("system", name) for name in ("zombies", "stuck", "daemons")] == [
        *("0", "1 two lines) S 1", "chronyd")
    ]


def test_a_process_that_ends_once_its_file_is_open_hides_no_other(tmp_path, node):
    root = planted.plant(tmp_path)
    (root / "proc/92/stat").mkdir(parents=True)  # it opens, and a read of it fails
    assert parse(planted.probe(root)).of("system") == node.of("system")


def test_more_processes_than_a_list_of_arguments_holds_are_unknown_and_nothing_else(tmp_path):
    many = {f"proc/{'9' * 240}{number}/stat": "1 (one) S 1" for number in range(100, 700)}
    short_list = ("prlimit", f"--stack={256 * 1024}")  # of arguments: a fourth of the stack's limit
    system = parse(planted.probe(planted.plant(tmp_path, many), *short_list))
    names = ("zombies", "stuck", "daemons", "manager", "vm/swappiness")
    assert [system.one("system", name) for name in names] == [*"????", "10"]


def test_a_node_on_which_nothing_can_be_read_says_so(tmp_path):
    node = probed(tmp_path, dict.fromkeys(planted.files()))
    assert [node.one("system", name) for name in ("uptime", "zombies", "gpus_on_bus")] == ["?"] * 3
    assert node.of("memory") == node.of("ib") == node.of("eth") == {}


def test_an_older_driver_has_other_names():
    answer = f"{SMI_OF_535}=== nvidia 0\n"
    assert parse(answer).of("gpu") == {
        "0": {
            "bus": "00000000:18:00.0",
            "processes": "2",
            "Clocks Event Reasons/HW Slowdown": "Not Active",
            "Clocks Event Reasons/HW Slowdown/HW Thermal Slowdown": "Active",
            "Processes/Process ID/Name": "python",
        }
    }


def test_a_driver_that_hangs_is_no_node_without_gpus(answer):
    begin, end = answer.index("==============NVSMI"), answer.index("=== nvidia 0")
    node = parse(answer[:begin] + answer[end:].replace("=== nvidia 0", "=== nvidia 124"))
    assert node.one("nvidia", "state") == "did not answer in time"
    assert node.missing == {"gpu": "nvidia-smi: did not answer in time"}


def test_messages_of_the_kernel_count_for_a_day(answer):
    old = "[   12.000000] NVRM: Xid (PCI:0000:00:06): 79, pid=1"
    new = "[863990.000000] NVRM: Xid (PCI:0000:00:07): 79, pid=1"
    node = parse(answer.replace("=== kernel 0", f"{old}\n{new}\n=== kernel 0"))
    assert node.one("kernel", "messages") == new


USUAL = "6,1,12345678,-;mlx5_core 0000:18:00.0: firmware version: 28.41.1000\n"
CLEARED = "4,2,863990000000,-;NVRM: Xid (PCI:0000:00:06): 79, pid=1\n"
UNREAD = {"kernel": "the kernel's messages may not be read"}
LEFT = "[863990.000000] NVRM: Xid (PCI:0000:00:07): 79, pid=1"


@pytest.mark.parametrize(
    ("read", "messages"), [(USUAL, "none"), (USUAL + CLEARED, LEFT), ("", LEFT)]
)
def test_dmesg_is_asked_where_the_kernel_has_one_of_hardware_or_none_at_all(
    tmp_path, read, messages
):
    root = planted.plant(tmp_path)
    with planted.messages(root, read, printed=LEFT):
        node = parse(planted.probe(root))
    assert node.one("kernel", "messages") == messages


def test_messages_that_may_not_be_read_are_unknown(answer):
    node = parse(answer.replace("=== kernel 0", "=== kernel 1"))
    assert node.missing == {"kernel": "the kernel's messages may not be read"}


@pytest.mark.parametrize(
    ("journal", "code", "messages", "missing"),
    [("", 0, None, UNREAD), (USUAL, 1, None, UNREAD), (LEFT, 0, LEFT, {})],
)
def test_a_journal_that_shows_nothing_may_not_be_read(tmp_path, journal, code, messages, missing):
    root = planted.plant(tmp_path)
    (root / "bin/dmesg").write_text("#!/bin/sh\nexit 1\n")
    (root / "bin/journalctl").write_text(f"#!/bin/sh\nprintf %s '{journal}'\nexit {code}\n")
    (root / "bin/journalctl").chmod(0o755)
    node = parse(planted.probe(root))
    assert (node.one("kernel", "messages"), node.missing) == (messages, missing)


def test_an_answer_that_was_cut_short_lacks_what_came_last(answer):
    node = parse(answer[: answer.index("=== facts")])
    assert node.missing["memory"] == "the node did not say"
