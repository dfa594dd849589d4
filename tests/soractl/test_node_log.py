from soractl.node_log import follow, tail


def test_a_log_that_is_not_there_has_no_lines(tmp_path):
    assert tail(tmp_path / "n.log") == []


def test_only_the_end_of_a_long_log_is_read_and_bad_bytes_do_no_harm(tmp_path):
    log = tmp_path / "n.log"
    log.write_bytes(b"a\n" * 1000 + b"\xff\n\nlast\n")
    assert tail(log, last_bytes=12) == ["a", "a", "\ufffd", "last"]


def test_new_lines_are_followed_until_the_end(tmp_path):
    log = tmp_path / "n.log"
    log.write_text("old\n")
    steps = iter(["new 1\nnew", " 2\n", "rest\n"])

    def ended():
        text = next(steps)
        with log.open("a") as file:
            file.write(text)
        return text == "rest\n"

    assert list(follow(log, ended)) == ["new 1", "new 2", "rest"]
