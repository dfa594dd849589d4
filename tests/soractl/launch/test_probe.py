import socket

from soractl.launch.probe import digest_of, facts, head_addresses, port_is_free


def asked(tmp_path, **changes):
    question = {
        "marker": str(tmp_path / "runs/marker"),
        "head": "127.0.0.1",
        "port": 0,
        "code": str(tmp_path),
        "packages": ["pytest", "no-such-package"],
    }
    return facts({**question, **changes})


def test_a_node_without_the_shared_folder_answers_that_it_sees_no_marker(tmp_path):
    found = asked(tmp_path)
    assert (found["marker"], found["free_bytes"]) == (None, None)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/marker").write_text("secret")
    found = asked(tmp_path)
    assert (found["marker"], found["free_bytes"] > 0) == ("secret", True)


def test_versions_are_those_of_this_python_and_none_of_what_is_not_installed(tmp_path):
    import platform
    from importlib import metadata

    assert asked(tmp_path)["versions"] == {
        "python": platform.python_version(),
        "trainer code": digest_of(tmp_path),
        "pytest": metadata.version("pytest"),
        "no-such-package": None,
    }


def test_other_code_has_another_digest_wherever_it_lies(tmp_path):
    for folder, code in (("a", "x = 1"), ("b", "x = 1"), ("c", "x = 2")):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / "one.py").write_text(code)
    first, same, other = (digest_of(tmp_path / folder) for folder in "abc")
    assert first == same != other


def test_a_name_that_nobody_knows_has_no_address():
    assert head_addresses("no-such-host.invalid") == []
    assert head_addresses("127.0.0.1") == ["127.0.0.1"]


def test_a_port_on_which_somebody_listens_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)
