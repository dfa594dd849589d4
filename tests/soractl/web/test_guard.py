import socket

import pytest

from soractl.web.guard import headers, is_loopback, is_own_host, own_names


@pytest.mark.parametrize("host", ["127.0.0.1:8470", "localhost", "LOCALHOST:1", "[::1]:9", "n1:8"])
def test_names_of_this_machine_are_answered_on_any_port(host):
    assert is_own_host(host, {"n1"})


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "127.0.0.1.evil.example:8470", "localhost:x", "a:1:2"]
)
def test_other_names_are_not(host):
    assert not is_own_host(host, {"n1"})


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.5", "n1", ""])
def test_what_others_reach_is_no_loopback(address):
    assert not is_loopback(address)


def test_a_server_is_asked_for_under_its_address_and_the_names_of_its_machine():
    assert {"10.0.0.5", socket.gethostname().lower()} <= own_names("10.0.0.5")


def test_no_answer_may_stand_in_a_frame_or_be_taken_for_another_kind():
    found = headers("default-src 'none'")
    policy = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
    assert found["Content-Security-Policy"] == policy
    assert found["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in found
