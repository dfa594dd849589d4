import json

import pytest

from trainer.model.caption_cleaning import clean_caption, clean_twice


def test_captions_are_cleaned_as_the_reference_cleans_them(golden):
    captions = json.loads((golden / "text_cleaning.json").read_text())["captions"]
    for caption in captions:
        assert clean_caption(caption["input"]) == caption["cleaned_once"]
        assert clean_twice(caption["input"]) == caption["cleaned"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Beautiful Sunset over the City!", "a beautiful sunset over the city!"),
        (
            "A cat (black & white) -- see https://foo.com/bar?x=1 for more...",
            "a cat black white - see ?x=1 for more",
        ),
        (
            "A man, aged 30, walks.aesthetic score: 6.5.",
            "a man, aged 30, walks. aesthetic score: 6.5.",
        ),
        ("Zoom in; 1920x1080 video, jc6640 page 12 #123", "zoom in; video"),
        (
            "line\\nbreak <b>bold</b> @user file.png it's 3:45 ",
            "line break bold it's 3:45",
        ),
        (
            "snow-covered one-of-a-kind well-known state-of-the-art",
            "snow covered one of a kind well known state of the art",
        ),
        ("free shipping download now 12345678 192.168.0.1", "now"),
        ("A 日本 scene \u2013 it\u2019s \u201cnice\u201d", 'a scene - it\'s "nice"'),
        ("(hello) [world] {x} a/b\\c", "hello world x a b c"),
        ("a-b_c-d e", "a-b_c-d e"),
        ("x,y a.b c/d", "x, y a. b c d"),
        (".hidden", ""),
        ("", ""),
    ],
)
def test_each_rule_of_the_cleaning_holds(text, expected):
    assert clean_twice(text) == expected


def test_the_second_pass_finds_more():
    assert clean_caption("Zoom in; 1920x1080 video, jc6640 page 12 #123") == "zoom in; video,"


def test_text_that_looks_like_an_address_or_markup_causes_no_warning():
    assert clean_caption("https://") == ""
    assert clean_caption("a.txt") == "a. txt"
    assert clean_caption("3 < 4 and <") == "3 < 4 and <"
