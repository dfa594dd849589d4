import json
from dataclasses import asdict

import pytest

from tests.making import make_manifest
from trainer.manifest import missing_file, parse_manifest


def test_a_manifest_that_was_written_as_json_is_read_back_equal():
    manifest = make_manifest(
        40,
        consumed=((8, 10), (4, 20)),
        files={"model/weights": {"bytes": 4, "sha256": "ab"}},
        costs={"240p-17": 2.0},
        recent_grad_norms=(0.5, 1.25),
    )
    assert parse_manifest(json.dumps(asdict(manifest))) == manifest


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"epoch": 0}'])
def test_text_that_is_no_manifest_is_refused(text):
    with pytest.raises(ValueError, match=r"^checkpoint\.json is not readable: "):
        parse_manifest(text)


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        ({"a": 4, "b": 7, "not described": 1}, None),
        ({"a": 4}, "b is missing"),
        ({"a": 3, "b": 7}, "a has 3 of 4 bytes"),
    ],
)
def test_the_first_file_that_is_not_there_in_full_is_named(sizes, fault):
    manifest = make_manifest(1, files={"a": {"bytes": 4}, "b": {"bytes": 7}})
    assert missing_file(manifest, sizes) == fault
