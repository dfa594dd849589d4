import datetime

import numpy as np
import pandas as pd
import pytest

from soractl.data import table as data_table
from soractl.errors import SoractlError
from trainer.data.dataset import load_clips
from trainer.settings import ConfigError

NUMBERS = {"num_frames": 40, "height": 240, "width": 426}
ODD_TEXTS = [
    *("None", "NA", "N/A", "null", "NULL", "nan", "NaN", "<NA>", "#N/A", "-", "true", "007", "1e3"),
    *("a\rb", "a\nb", "a\r\nb", " a ", '"a"', "'", "a,b", "a\\b", "a\tb", "\x0c", "#a", "\u2028"),
    *("\ufeffa", "ä", "猫", "🐈", "=1+1", "['a']", "{}"),
]


def table_of(texts, **columns):
    return pd.DataFrame(
        {
            "path": [f"/clips/{n}.mp4" for n in range(len(texts))],
            "text": texts,
            **NUMBERS,
            **columns,
        }
    )


@pytest.mark.parametrize("name", ["clips.csv", "clips.parquet"])
def test_what_is_written_is_read_back_by_preparing_and_by_training(tmp_path, name):
    file = tmp_path / name
    written = table_of(ODD_TEXTS, note=ODD_TEXTS)
    written["path"] = [f"/clips/{text}.mp4" for text in ODD_TEXTS]
    data_table.write(written, file)
    clips = load_clips(file)
    assert clips.captions_of(range(len(ODD_TEXTS))) == ODD_TEXTS
    assert clips.paths.tolist() == written["path"].tolist()
    read = data_table.read(file)
    assert {name: read[name].tolist() for name in ("path", "text", "note")} == {
        name: written[name].tolist() for name in ("path", "text", "note")
    }


def test_an_empty_caption_is_one_that_nobody_wrote(tmp_path):
    file = tmp_path / "clips.csv"
    data_table.write(table_of(["", None, "None"]), file)
    assert load_clips(file).captions_of(range(3)) == ["", "", "None"]
    assert data_table.read(file)["text"].isna().tolist() == [True, True, False]


@pytest.mark.parametrize("word", ["", "nan", "NA", "None", "null"])
def test_an_unknown_number_has_many_names(tmp_path, word):
    file = tmp_path / "clips.csv"
    file.write_text(f"path,text,fps\na.mp4,{word},{word}\nb.mp4,x,24\n")
    assert data_table.read(file)["fps"].dropna().tolist() == [24.0]


WRONG_TEXTS = {
    "list": (["a cat", "a dog"], "['a cat' 'a dog']"),
    "dict": ({"en": "a cat"}, "{'en': 'a cat'}"),
    "bytes": (b"a cat", "b'a cat'"),
    "time": (datetime.date(2026, 1, 1), "2026-01-01"),
}


@pytest.mark.parametrize(("value", "shown"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
@pytest.mark.parametrize("column", ["path", "text"])
def test_what_is_no_text_is_refused_before_the_work(tmp_path, column, value, shown):
    file = tmp_path / "clips.parquet"
    table = table_of(["a cat"])
    table[column] = pd.Series([value], dtype=object)
    table.to_parquet(file)
    message = f"{file}: row 0 has {column} = {shown}; no text"
    with pytest.raises(SoractlError) as refused:
        data_table.read(file)
    assert str(refused.value) == message
    with pytest.raises(ConfigError) as refused_by_training:
        load_clips(file)
    assert refused_by_training.value.faults == (message,)


def test_numbers_and_words_of_a_dictionary_are_texts(tmp_path):
    file = tmp_path / "clips.parquet"
    table_of([7, 8]).to_parquet(file)
    assert load_clips(file).captions_of([0, 1]) == ["7", "8"]
    words = table_of(["a", None])
    words["text"] = words["text"].astype("category")
    words.to_parquet(file)
    assert load_clips(file).captions_of([0, 1]) == ["a", ""]


WRONG_NUMBERS = {
    "a word": ("unknown", "unknown; no number"),
    "with its unit": ("12 MB", "12 MB; no number"),
    "a list": ([1, 2], "[1 2]; no number"),
    "a date": (pd.Timestamp("2026-01-01"), "2026-01-01 00:00:00; no number"),
    "yes or no": (True, "True; no number"),
}


@pytest.mark.parametrize(("value", "shown"), WRONG_NUMBERS.values(), ids=WRONG_NUMBERS)
@pytest.mark.parametrize("column", ["num_frames", "width", "fps", "file_size", "aspect_ratio"])
def test_what_is_no_number_is_one_sentence_before_the_work(tmp_path, column, value, shown):
    file = tmp_path / "clips.parquet"
    table = table_of(["a cat"])
    table[column] = pd.Series([value])
    table.to_parquet(file)
    message = f"{file}: row 0 has {column} = {shown}"
    with pytest.raises(SoractlError) as refused:
        data_table.read(file)
    assert str(refused.value) == message
    if column in NUMBERS:
        with pytest.raises(ConfigError) as refused_by_training:
            load_clips(file)
        assert refused_by_training.value.faults == (message,)


@pytest.mark.parametrize("value", [40.5, np.inf, 1e300])
def test_frames_and_pixels_are_whole_numbers(tmp_path, value):
    file = tmp_path / "clips.csv"
    table = table_of(["a"])
    table["num_frames"] = [value]
    table.to_csv(file, index=False)
    with pytest.raises(SoractlError, match=r"row 0 has num_frames = .*; no whole number"):
        data_table.read(file)
    with pytest.raises(ConfigError, match=r"row 0 has num_frames = .*; no (whole )?number"):
        load_clips(file)


def test_numbers_that_are_written_as_texts_are_numbers(tmp_path):
    file = tmp_path / "clips.parquet"
    table = table_of(["a", "b"])
    table["num_frames"] = ["40", "41"]
    table.to_parquet(file)
    assert data_table.read(file)["num_frames"].tolist() == [40, 41]
    assert load_clips(file).num_frames.tolist() == [40, 41]
