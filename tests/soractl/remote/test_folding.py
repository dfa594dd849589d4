from soractl.remote.folding import fold_names, group
from soractl.remote.nodes import Node
from soractl.remote.requests import NodeResult


def test_names_are_folded_to_ranges():
    names = ["n1", "n3", "n2", "gpu-a01", "10.0.0.7"]
    assert fold_names(names) == "10.0.0.7,gpu-a01,n[1-3]"


def test_an_answer_that_was_too_long_shows_how_many_bytes_are_missing():
    [found] = group([NodeResult(Node("n1"), "a\n", exit_code=0, dropped_bytes=7)])
    assert found.lines == ["a", "(7 more bytes were not kept)"]
