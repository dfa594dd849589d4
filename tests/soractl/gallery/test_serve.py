import http.client
import socket
import struct
import threading

import pytest

from soractl.errors import ExitCode, SoractlError
from soractl.gallery.serve import gallery_server, url_of
from tests.soractl.gallery.evaluated import publish, video
from trainer.run_dir import create_run


@pytest.fixture
def runs(run):
    return [run]


@pytest.fixture
def server(run, runs):
    publish(run, 100, [video(0)])
    folder = run.evaluation("low4s", 100)
    (folder / "sample_0000.mp4").write_bytes(b"0123456789")
    (folder / "sample_0000.poster.png").write_bytes(b"poster")
    (folder / "secret.mp4").write_bytes(b"of no result")
    with gallery_server(lambda: runs, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def ask(server):
    port = server.server_address[1]

    def ask(path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body, dict(answer.headers)

    return ask


def test_it_listens_to_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert url_of(server) == f"http://127.0.0.1:{server.server_address[1]}/"


def test_the_page_its_data_and_the_videos_of_a_result_are_served(ask):
    status, body, headers = ask("/")
    assert (status, body[:15]) == (200, b"<!doctype html>")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b'"folder":"0"' in ask("/gallery.js?1")[1]
    assert ask("/0/low4s/100/sample_0000.mp4")[:2] == (200, b"0123456789")
    assert ask("/0/low4s/100/sample_0000.poster.png")[:2] == (200, b"poster")


def test_a_player_gets_the_part_that_it_asks_for(ask):
    for asked, part in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=8-99", b"89")):
        status, body, headers = ask("/0/low4s/100/sample_0000.mp4", Range=asked)
        assert (status, body) == (206, part)
        assert headers["Content-Range"].endswith("/10")


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=10-", "bytes=-3", f"bytes={'9' * 5000}-"])
def test_a_part_that_is_none_gets_the_whole_video(ask, asked):
    status, body, _ = ask("/0/low4s/100/sample_0000.mp4", Range=asked)
    assert (status, body) == (200, b"0123456789")


@pytest.mark.parametrize(
    "path",
    [
        "/0/low4s/100/secret.mp4",
        "/0/low4s/100/result.json",
        "/1/low4s/100/sample_0000.mp4",
        "/0/low4s/200/sample_0000.mp4",
        "/0/../../run.json",
        "/0/%2e%2e/100/sample_0000.mp4",
        "/0/low4s/100/..%2f..%2f..%2frun.json",
        "/etc/passwd",
        f"/{'1' * 5000}/low4s/100/sample_0000.mp4",  # more digits than Python reads
        f"/0/low4s/{'1' * 5000}/sample_0000.mp4",
        "/0/low4s/100/%00.mp4",
        "/0/low4s/100/" + "%ff" * 5000 + ".mp4",
        "/%30/low4s/%D9%A1/sample_0000.mp4",  # a digit of another script
        "*",
    ],
)
def test_nothing_else_is_served(ask, path, capsys):
    assert ask(path)[0] == 404
    assert capsys.readouterr().err == ""


def test_another_sites_name_for_this_machine_is_refused(ask):
    assert ask("/", Host="evil.example")[0] == 421


def test_it_takes_no_command(ask):
    assert {ask("/", method=method)[0] for method in ("POST", "PUT", "DELETE")} == {501}


def test_a_new_result_is_in_the_next_data(ask, run):
    assert b'"step":200' not in ask("/gallery.js")[1]
    publish(run, 200, [video(0)])
    assert b'"step":200' in ask("/gallery.js")[1]


def test_a_run_that_came_later_is_in_the_next_data(ask, runs, tmp_path):
    assert b"002-smoke" not in ask("/gallery.js")[1]
    runs.append(create_run(tmp_path / "runs", "smoke"))
    assert b"002-smoke" in ask("/gallery.js")[1]


def test_a_result_that_is_no_object_names_no_video(ask, run):
    run.evaluation_result("low4s", 100).write_text("[]")
    assert ask("/0/low4s/100/sample_0000.mp4")[0] == 404


def test_a_browser_that_leaves_amid_a_video_is_no_error(server, run, monkeypatch, capsys):
    (run.evaluation("low4s", 100) / "sample_0000.mp4").write_bytes(bytes(50_000_000))
    ended, close = threading.Event(), server.shutdown_request
    monkeypatch.setattr(server, "shutdown_request", lambda one: (close(one), ended.set()))
    host, port = server.server_address
    with socket.create_connection((host, port)) as browser:
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        words = f"GET /0/low4s/100/sample_0000.mp4 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
        browser.sendall(words.encode())
        assert browser.recv(12) == b"HTTP/1.1 200"
    assert ended.wait(30)
    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken_is_one_sentence(server, run):
    port = server.server_address[1]
    with pytest.raises(SoractlError, match=f"port {port} of 127.0.0.1 cannot be used") as caught:
        gallery_server(lambda: [run], port)
    assert caught.value.exit_code == ExitCode.REFUSED
