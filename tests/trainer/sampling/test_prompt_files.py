import pytest

from trainer.sampling.prompt_files import Entry, read_entries
from trainer.settings import ConfigError

TOML = """
[[prompt]]
id = "rabbit"
text = "a grey rabbit"
seed = 7
frames = "4s"

[[prompt]]
text = "ünïcödé, with a comma"
reference = "a.png;b.mp4"
mask_strategy = "0"
"""
CSV = (
    "\ufeffid,text,seed,frames,reference,mask_strategy\n"
    'rabbit,a grey rabbit,7,4s,,\n,"ünïcödé, with a comma",,,a.png;b.mp4,0\n'
)
ENTRIES = [
    Entry("a grey rabbit", id="rabbit", seed=7, frames="4s"),
    Entry("ünïcödé, with a comma", reference="a.png;b.mp4", mask_strategy="0"),
]


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.toml", TOML), ("p.csv", CSV), ("P.CSV", CSV), ("P.TOML", f"\ufeff{TOML}")],
)
def test_toml_and_csv_give_the_same_prompts(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_entries(path) == ENTRIES


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\na dog\n")
    assert read_entries(path) == [Entry("a cat"), Entry(""), Entry("a dog")]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("p.toml", "", "{path} holds no prompt; it has tables [[prompt]] with a `text`"),
        ("p.toml", "prompt = 'x'", "{path} holds no prompt; it has tables [[prompt]]"),
        ("p.toml", "[[prompt]]\nid = 'a'", "{path}, prompt 1: it has no text"),
        (
            "p.toml",
            "[[prompt]]\ntext = 'a'\nid = '../x'",
            "{path}, prompt 1: id '../x'; expected up to 100 letters, digits, '.', '_' and '-'",
        ),
        (
            "p.csv",
            "text,sede\na,7\n",
            "{path}, prompt 1: no column 'sede'; expected text, id, seed",
        ),
        ("p.csv", "text,seed\na,x\n", "{path}, prompt 1: seed 'x'; expected a whole number"),
        ("p.csv", "text\na,b\n", "{path}, prompt 1: no column '(beyond the header)'"),
        (
            "p.csv",
            'text,seed\n"a,1\nb,2\n',
            '{path}, line 3: unexpected end of data; a text with quotes is "a ""red"" cat"',
        ),
        (
            "p.csv",
            'text,seed\n"Hi" in red,1\n',
            '{path}, line 2: \',\' expected after \'"\'; a text with quotes is "a ""red"" cat"',
        ),
        ("p.csv", "text,text\na,b\n", "{path} has two columns 'text'"),
        ("p.csv", "id,text\nx,a\nx,b\n", "{path}: 2 prompts have the id 'x'"),
    ],
)
def test_a_fault_names_the_file_and_the_prompt(tmp_path, name, text, fault):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_entries(path)
    assert str(caught.value).startswith(fault.format(path=path))


def test_a_missing_table_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_entries(tmp_path / "none.csv")
