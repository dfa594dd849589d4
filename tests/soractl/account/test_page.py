import re
from html.parser import HTMLParser

from soractl.account.goodput import Account, Interruption, Part, Segment
from soractl.account.page import COLOURS, page
from soractl.account.report import figures

T0 = 1_000_000.0
PARTS = ((Part.STARTING, 0, 20), (Part.TRAINING, 20, 80), (Part.DETECTING, 80, 110))
STOP = Interruption(
    attempt=1, unix_s=T0 + 80, state="hung", cause="hardware", text="<rank 3> & all_reduce 7",
    node="n2", step=30, lost_steps=4, lost_s=8.0, detected_s=30.0, repaired_s=None,
)  # fmt: skip
ACCOUNT = Account(
    run="001-smoke",
    begin_unix_s=T0,
    end_unix_s=T0 + 110,
    segments=tuple(Segment(part, T0 + a, T0 + b, 1) for part, a, b in PARTS),
    interruptions=(STOP,),
    gpus={1: 6},
    rows=tuple(
        {"global_step": i, "attempt": 1 + i // 25, "loss": 2.0 - i / 40, "s_per_step": 2 + i % 3,
         "time_unix_s": T0 + 20 + 2 * i}
        for i in range(1, 31)
    ),
)  # fmt: skip
EMPTY = Account(
    run="001-smoke", begin_unix_s=T0, end_unix_s=T0, segments=(), interruptions=(), gpus={1: 6}
)


def test_the_page_asks_the_network_for_nothing():
    text = page(ACCOUNT, figures(ACCOUNT))
    assert not re.findall(r"(?:src|href|@import|url\()", text)
    assert not re.findall(r"https?:", text)
    assert "<script" not in text


def test_every_element_that_begins_ends():
    class Elements(HTMLParser):
        left = ()

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "html", "title"):
                self.left += (tag,)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            if tag not in ("html", "title"):
                assert self.left[-1] == tag
                self.left = self.left[:-1]

    elements = Elements()
    elements.feed(page(ACCOUNT, figures(ACCOUNT)))
    assert elements.left == ()


def test_words_of_a_failure_are_no_markup():
    text = page(ACCOUNT, [])
    assert "&lt;rank 3&gt; &amp; all_reduce 7" in text
    assert "<rank" not in text


def test_the_bar_is_as_long_as_the_parts():
    text = page(ACCOUNT, [])
    widths = [float(w) for w in re.findall(r'y="0" width="([\d.]+)"', text)]
    assert [round(w) for w in widths] == [round(900 * s / 110) for s in (20, 60, 30)]
    assert all(COLOURS[part] in text for part, _, _ in PARTS)


def test_loss_is_drawn_an_attempt_a_line_with_a_mark_where_it_was_interrupted():
    text = page(ACCOUNT, [])
    assert text.count("<polyline") == 2
    assert text.count("stroke-dasharray") == 1


def test_every_part_has_a_colour_of_its_own():
    assert len({COLOURS[part] for part in Part}) == len(Part)


def test_a_run_without_steps_has_a_page_too():
    assert "no losses yet" in page(EMPTY, figures(EMPTY))
