from soractl.remote.scripts import sections


def test_sections_are_closed_by_their_name():
    text = "one\ntwo\n=== first 0\n=== empty 3\nrest"
    assert sections(text) == {"first": ("one\ntwo\n", 0), "empty": ("", 3)}


def test_a_mark_may_be_the_first_line_and_one_that_is_cut_off_closes_nothing():
    assert sections("=== start 0\n=== facts 0\nrest\n=== odd 1") == {
        "start": ("", 0),
        "facts": ("", 0),
    }
    assert sections("no === mark 0\n") == sections("") == {}
