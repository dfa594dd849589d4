import json

from soractl.errors import Interrupted, SoractlError
from soractl.terminal import output
from soractl.terminal.lines import BadLine, Verbatim
from soractl.terminal.table import Table


def test_an_error_says_what_happened_and_what_to_type(capsys):
    output.error(SoractlError("no run 9 in runs/", hint="did you mean 8?"))
    output.error(SoractlError("a = 1; expected str\nno setting b"))
    output.error(Interrupted("nothing was started"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "error: no run 9 in runs/\nhint: did you mean 8?\n"
        "error: a = 1; expected str\nno setting b\n"
        "interrupted; nothing was started\n"
    )


def test_json_is_one_object_with_its_schema_version_first(capsys):
    output.report(["text"], {"b": 1, "a": None}, as_json=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"schema_version": 1, "b": 1, "a": None}
    assert printed.startswith('{\n  "schema_version": 1')


def test_a_report_of_tables_and_lines_is_plain_text_without_a_terminal(capsys):
    parts = [Table(("A", "B"), (("1", "2"),), words=1), BadLine("x is broken"), "1 of 2"]
    output.report(parts, {}, as_json=False)
    assert capsys.readouterr().out == "A  B\n1  2\nx is broken\n1 of 2\n"


def test_a_terminal_gets_sentences_wrapped_and_commands_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "dumb")  # without colours
    for stream in (output.sys.stdout, output.sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    command = Verbatim("soractl resume 9 --set data.workers=2")
    output.result([Table(("A", "NOTE"), (("1", "x" * 28),), words=1), "three nodes gave no answer"])
    output.note(["n1 was given up: it did not answer", command])
    output.error(SoractlError("no run 9 in the folder runs/ here", hint=command))
    output.verbatim("what a program prints, however long it is")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "A",
        "1",
        "    NOTE:",
        "        " + "x" * 28,
        "three nodes gave no answer",
        "what a program prints, however long it is",
    ]
    assert printed.err.splitlines() == [
        "n1 was given up: it did not",
        "    answer",
        command,
        "error: no run 9 in the folder",
        "    runs/ here",
        f"hint: {command}",
    ]
