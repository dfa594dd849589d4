import json
import time

import pytest

from soractl.cluster.notify import Notifier, NotifySettings
from soractl.remote.connections import Connections
from tests.receiver import receiver
from tests.waiting import wait_for

SECRET = "/services/T000/B000/very-secret"


@pytest.fixture
def server():
    with receiver() as found:
        yield found


@pytest.fixture
def notifier(tmp_path):
    """Make a notifier with these settings, environment and clock, and what it reported."""

    def make(environ=(), **settings):
        made = Notifier(
            NotifySettings(**settings),
            remote,
            dict(environ),
            on_sent=lambda *report: made.sent.append(report),
            clock=lambda: made.now_s,
        )
        made.sent, made.now_s = [], 0.0
        return made

    with Connections() as remote:
        yield make


def wait(threads):
    for thread in threads:
        thread.join(20)
    return len(threads)


def test_a_webhook_gets_what_slack_takes(notifier, server, tmp_path):
    (tmp_path / "url").write_text(f"{server.url}{SECRET}\n")
    sender = notifier(webhook_file=str(tmp_path / "url"))
    assert wait(sender.tell("hung", "007-stage2 is hung")) == 1
    assert server.got == [("POST", SECRET, {"text": "007-stage2 is hung"})]
    assert sender.sent == [("hung", "webhook", "")]


def test_a_command_reads_kind_and_text(notifier, tmp_path):
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat > {tmp_path}/got\n")
    hook.chmod(0o755)
    sender = notifier(command=str(hook))
    wait(sender.tell("lost", "n2 is lost"))
    assert json.loads((tmp_path / "got").read_text()) == {"kind": "lost", "text": "n2 is lost"}
    assert sender.sent == [("lost", "command", "")]


def test_a_kind_is_not_repeated_before_its_cool_down(notifier, server):
    sender = notifier({"SORACTL_WEBHOOK_URL": f"{server.url}{SECRET}"}, cooldown_s=600.0)
    counts = []
    for now_s, kind in ((0, "hung"), (599, "hung"), (599, "restarted"), (600, "hung")):
        sender.now_s = now_s
        counts.append(wait(sender.tell(kind, kind)))
    assert counts == [1, 0, 1, 1]


def test_the_dead_man_is_pinged_once_a_minute_while_somebody_sees(notifier, server):
    sender = notifier({"SORACTL_DEAD_MAN_URL": f"{server.url}/ping"})
    counts = []
    for sender.now_s in (0.0, 0.5, 59.0, 60.0):
        counts.append(wait(sender.saw()))
    assert counts == [1, 0, 0, 1]
    assert server.got == [("GET", "/ping", None)] * 2


def test_without_settings_nothing_is_sent(notifier):
    sender = notifier()
    assert (sender.tell("hung", "x"), sender.saw()) == ([], [])


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1" + SECRET, "file:///etc/passwd", "https://[" + SECRET, "nonsense"]
)
def test_no_failure_quotes_the_url(notifier, url):
    sender = notifier({"SORACTL_WEBHOOK_URL": url})
    wait(sender.tell("hung", "x"))
    [(_, way, fault)] = sender.sent
    assert way == "webhook"
    assert fault
    assert SECRET not in fault
    assert "passwd" not in fault


def test_an_answer_that_refuses_is_a_fault(notifier, server):
    sender = notifier({"SORACTL_WEBHOOK_URL": f"{server.url}/gone"})
    wait(sender.tell("hung", "x"))
    assert sender.sent == [("hung", "webhook", "HTTP status 404")]


def test_a_file_that_is_not_there_and_a_hook_that_fails_are_faults(notifier, tmp_path):
    sender = notifier(command=str(tmp_path / "none"), webhook_file=str(tmp_path / "url"))
    wait(sender.tell("hung", "x"))
    faults = {way: fault for _, way, fault in sender.sent}
    assert faults["webhook"] == f"{tmp_path}/url: No such file or directory"
    assert "No such file" in faults["command"]


def test_a_message_that_did_not_arrive_is_sent_again_at_once(notifier, server):
    sender = notifier({"SORACTL_WEBHOOK_URL": f"{server.url}/gone"})
    assert wait(sender.tell("hung", "x")) == 1
    assert wait(sender.tell("hung", "x")) == 1
    sender.environ["SORACTL_WEBHOOK_URL"] = server.url
    assert wait(sender.tell("hung", "x")) == 1
    assert wait(sender.tell("hung", "x")) == 0
    assert [fault for _, _, fault in sender.sent] == ["HTTP status 404"] * 2 + [""]


def test_a_slow_receiver_delays_nobody_and_gets_one_ping_at_a_time(notifier, server):
    urls = {"SORACTL_WEBHOOK_URL": "/slow", "SORACTL_DEAD_MAN_URL": "/slow-ping"}
    sender = notifier({name: server.url + path for name, path in urls.items()})
    began_s = time.monotonic()
    threads = [*sender.tell("hung", "x"), *sender.saw()]
    for sender.now_s in (60.0, 120.0, 180.0):
        assert sender.saw() == []
    assert time.monotonic() - began_s < 5.0
    wait_for(lambda: len(server.got) == 2)
    assert sender.sent == []
    server.slow.set()
    wait(threads)
    assert wait(sender.saw()) == 1
    sent = sorted((way, fault) for _, way, fault in sender.sent)
    assert sent == [("dead man", ""), ("dead man", ""), ("webhook", "")]


def test_what_is_under_way_is_waited_for_at_the_end_but_not_for_ever(notifier, server):
    sender = notifier({"SORACTL_WEBHOOK_URL": f"{server.url}/slow"})
    sender.tell("finished", "x")
    wait_for(lambda: server.got)
    sender.finish(within_s=0.2)
    assert sender.sent == []
    server.slow.set()
    sender.finish()
    assert sender.sent == [("finished", "webhook", "")]
