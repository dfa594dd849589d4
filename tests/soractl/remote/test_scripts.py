from soractl.remote.scripts import sections


def test_sections_are_closed_by_their_name():
    text = "one\ntwo\n=== first 0\n=== empty 3\nrest"
    assert sections(text) == {"first": ("one\ntwo\n", 0), "empty": ("", 3)}
