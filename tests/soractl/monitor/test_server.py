import asyncio
import contextlib
import http.client
import json
import socket

import pytest
from aiohttp import web

from soractl.errors import SoractlError
from soractl.monitor import server


def answers():
    def page(_):
        return web.Response(text="the page", content_type="text/html")

    def window(request):
        return web.json_response({"begin": float(request.query["begin"])})

    def broken(_):
        raise SoractlError("minutes.db: the disk is gone")

    return {"/": page, "/window": window, "/broken": broken}


@pytest.fixture
def start():
    """Starts a server; ends it after the test."""
    serving = []

    def start(address="127.0.0.1", token=None, feed=None):
        application = server.page_application(answers(), feed or server.Feed(), address, token)
        serving.append(server.Server(application, address, 0))
        return serving[-1].start()

    yield start
    for one in serving:
        one.stop()


def ask(port, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": "localhost", **headers})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


@contextlib.contextmanager
def listening(port):
    """A stream of events."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/live", headers={"Host": "localhost"})
    with contextlib.closing(connection), connection.getresponse() as stream:
        yield stream


def test_the_page_is_answered_with_its_policy_and_no_right_for_other_sites(start):
    answer, body = ask(start())
    assert (answer.status, body) == (200, "the page")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_name_that_was_pointed_to_this_machine_is_refused(start):
    port = start()
    for path in ("/", "/live", "/window?begin=1", "/nothing"):
        answer, body = ask(port, path, Host="evil.example")
        assert (answer.status, body) == (421, "misdirected request")
    assert ask(port, Host=f"127.0.0.1:{port + 1}")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_no_command_is_taken(start, method):
    assert ask(start(), "/", method)[0].status == 405


def test_what_is_not_there_is_404_and_a_bad_question_400(start):
    port = start()
    assert ask(port, "/../etc/passwd")[0].status == 404
    assert ask(port, "/window?begin=x")[0].status == 400
    assert json.loads(ask(port, "/window?begin=2")[1]) == {"begin": 2.0}


@pytest.mark.parametrize(
    "request_text",
    [
        b"\x16\x03\x01\x02\x00\x01 hello\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 20_000 + b"\r\n\r\n",
    ],
    ids=["TLS", "a long path", "two hosts", "a long host"],
)
def test_what_is_no_http_is_refused_and_fills_no_terminal(start, caplog, capfd, request_text):
    with socket.create_connection(("127.0.0.1", start()), timeout=10) as client:
        client.sendall(request_text)
        assert client.recv(100).split()[1] == b"400"
    assert (caplog.records, capfd.readouterr()) == ([], ("", ""))


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd"])
def test_a_path_leads_to_no_file(start, path):
    assert ask(start(), path)[0].status == 404


def test_a_store_that_cannot_be_read_is_named_and_asked_again(start):
    answer, body = ask(start(), "/broken")
    assert (answer.status, body) == (503, "minutes.db: the disk is gone")


def test_two_monitors_of_one_host_have_cookies_of_their_own(start):
    cookies = [
        ask(start("0.0.0.0", token=token), f"/?token={token}")[0].headers["Set-Cookie"]
        for token in ("secret", "other")
    ]
    assert len({cookie.partition("=")[0] for cookie in cookies}) == 2


def test_a_cookie_of_any_bytes_is_refused(start):
    port = start("0.0.0.0", token="secret")
    name = ask(port, "/?token=secret")[0].headers["Set-Cookie"].partition("=")[0]
    assert ask(port, Cookie=f"{name}=\xff")[0].status == 403


def test_beyond_this_machine_a_token_is_asked_for_and_kept_in_a_cookie(start):
    port = start("0.0.0.0", token="secret")
    assert ask(port)[0].status == 403
    assert ask(port, "/?token=wrong")[0].status == 403
    assert ask(port, "/live")[0].status == 403
    answer, _ = ask(port, "/?token=secret")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ask(port, Cookie=cookie.partition(";")[0])[0].status == 200


@pytest.mark.parametrize(
    ("address", "needed"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("n1", True)]
)
def test_only_loopback_needs_no_token(address, needed):
    assert server.needs_token(address) == needed


def test_events_reach_everyone_who_listens(start):
    feed = server.Feed()
    port = start(feed=feed)
    with listening(port) as first, listening(port) as second:
        assert first.headers["Content-Type"] == "text/event-stream"
        feed.publish({"step": 1})
        assert [stream.readline() for stream in (first, second)] == [b'data: {"step":1}\n'] * 2


def test_a_slow_reader_loses_the_oldest_events(start):
    feed = server.Feed()
    feed.loop = type("Loop", (), {"call_soon_threadsafe": lambda _, call, text: call(text)})()
    waiting = asyncio.Queue(server.BACKLOG)
    feed._queues.add(waiting)
    for number in range(10):
        feed.publish({"n": number})
    assert [waiting.get_nowait() for _ in range(server.BACKLOG)] == [
        '{"n":7}',
        '{"n":8}',
        '{"n":9}',
    ]


def test_a_port_that_is_taken_is_an_error_with_a_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        application = server.page_application(answers(), server.Feed(), "127.0.0.1", None)
        with pytest.raises(SoractlError, match=f"port {port} of 127.0.0.1") as error:
            server.Server(application, "127.0.0.1", port).start()
    assert error.value.exit_code == 5


@pytest.mark.parametrize("address", ["a..b", f"{'n' * 64}.example"])
def test_an_address_that_is_no_name_is_an_error_and_nothing_hangs(address):
    application = server.page_application(answers(), server.Feed(), address, "secret")
    with pytest.raises(SoractlError, match=f"of {address} cannot be used") as error:
        server.Server(application, address, 0).start()
    assert error.value.hint == "name an address of this machine"


def metrics_for(address):
    application = server.metrics_application(lambda: "up 1\n", address)
    return server.Server(application, "127.0.0.1", 0)


def test_the_metrics_of_prometheus_stand_at_one_path():
    serving = metrics_for("127.0.0.1")
    port = serving.start()
    answer, body = ask(port, "/metrics")
    assert (answer.status, body) == (200, "up 1\n")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert ask(port, "/")[0].status == 404
    serving.stop()


@pytest.mark.parametrize(("address", "status"), [("127.0.0.1", 421), ("", 200)])
def test_metrics_on_loopback_are_for_no_name_that_was_pointed_there(address, status):
    serving = metrics_for(address)
    answer, _ = ask(serving.start(), "/metrics", Host="evil.example")
    serving.stop()
    assert answer.status == status


def test_an_end_closes_open_streams():
    application = server.page_application(answers(), server.Feed(), "127.0.0.1", None)
    serving = server.Server(application, "127.0.0.1", 0)
    with listening(serving.start()) as stream:
        serving.stop()
        with pytest.raises(http.client.IncompleteRead):
            stream.read()
