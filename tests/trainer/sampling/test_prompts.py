import json
from pathlib import Path

import pytest

from trainer.sampling.mask_strategy import MaskGroup
from trainer.sampling.prompts import Prompt, Scores, parse_prompt, read_prompts
from trainer.settings import ConfigError


@pytest.fixture
def helpers(golden):
    return json.loads((golden / "inference_helpers.json").read_text())


def test_loops_have_the_published_texts(helpers):
    for text, (texts, firsts) in helpers["split_prompt"]:
        assert parse_prompt(text).segments == tuple(zip(firsts or [0], texts, strict=True))
    for text, loop, expected in helpers["extract_prompts_loop"]:
        assert parse_prompt(text).text(loop) == expected.strip()
    by_loop = parse_prompt("|0|a|2|b|4|c")
    assert [by_loop.text(loop) for loop in range(6)] == ["a", "a", "b", "b", "c", "c"]


def test_scores_are_appended_as_published(helpers):
    names = {"aes": "aesthetic", "flow": "motion", "camera_motion": "camera_motion"}
    for text, given, expected in helpers["append_score_to_prompts"]:
        scores = Scores(**{names[name]: value for name, value in given.items()})
        assert scores.append_to(text) == expected
    both = parse_prompt("|0|a|1|b aesthetic score: 5.0.", scores=Scores(aesthetic=6.5))
    assert both.segments == ((0, "a aesthetic score: 6.5."), (1, "b aesthetic score: 5.0."))


def test_json_at_the_end_names_references_and_masks_of_its_own(helpers):
    lines, (texts, references, strategies) = helpers["extract_json_from_prompts"]
    found = [parse_prompt(line) for line in lines]
    assert [prompt.text(0) for prompt in found] == [text.strip() for text in texts]
    assert [";".join(map(str, prompt.references)) for prompt in found] == references
    assert [bool(prompt.mask_strategy) for prompt in found] == list(map(bool, strategies))


def test_a_prompt_without_json_has_what_all_have():
    expected = Prompt(((0, "a cat"),), (Path("x.png"),), (MaskGroup(),))
    assert parse_prompt("a cat", references=[Path("x.png")], mask_strategy="0") == expected
    own = parse_prompt('a cat {"mask_strategy": "1"}', references=[Path("x")], mask_strategy="0")
    assert own.references == (Path("x"),)
    assert own.mask_strategy == (MaskGroup(loop=1),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('a {"mask": "0"}', "'mask'; expected reference_path and mask_strategy, both texts"),
        ('a {"mask_strategy": 0}', "'mask_strategy'; expected reference_path and mask_strategy"),
        ('a {"mask_strategy": "0"} {', "what follows the text is no JSON: Extra data"),
        ('a {"mask_strategy": "x"}', "mask strategy 'x': expected up to 6 numbers"),
        ('a {"reference_path": "a.png"}', "references and no mask strategy"),
        ("|0|a|2|b|1|c", "loops [0, 2, 1]; expected rising numbers"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_quoted(line, message):
    with pytest.raises(ConfigError) as caught:
        parse_prompt(line)
    assert repr(line) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_has_one_prompt_a_line_and_a_blank_one_counts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n a dog \n\n")
    assert read_prompts(path) == ["a cat", "", "a dog"]
    assert parse_prompt("").text(0) == ""
    path.write_text("\n")
    with pytest.raises(ConfigError, match="holds no prompt"):
        read_prompts(path)
    with pytest.raises(ConfigError, match=r"cannot be read: .*No such file"):
        read_prompts(tmp_path / "none.txt")


def test_a_line_ends_where_editors_end_it_and_a_mark_at_the_start_is_none(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\u2028in the rain\r\na dog\x0cin snow\x85\u2029x\n".encode())
    assert read_prompts(path) == ["a cat\u2028in the rain", "a dog\x0cin snow\x85\u2029x"]


def test_a_brace_of_the_text_is_written_twice():
    assert parse_prompt("code {{x}} on }a{{ screen").text(0) == "code {x} on }a{ screen"
    both = parse_prompt('{{"a": 1}} {"mask_strategy": "0"}')
    assert (both.text(0), both.mask_strategy) == ('{"a": 1}', (MaskGroup(),))
    with pytest.raises(ConfigError, match="a brace of the text itself is written twice"):
        parse_prompt("code {x}")
