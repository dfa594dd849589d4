import pytest

from soractl.terminal.lines import BadLine, Command, Styled, Verbatim, styled, wrapped


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("fits", ["fits"]),
        ("state  failed on n1 at step 1200", ["state  failed on n1 at", "       step 1200"]),
        ("  n1: 2 ranks were stopped by TERM", ["  n1: 2 ranks were stopped", "      by TERM"]),
        (
            "to stop: `soractl kill 7 --all` here",
            ["to stop:", "    `soractl kill 7 --all`", "    here"],
        ),
        ("see /a/path/that/is/longer/than/it", ["see", "    /a/path/that/is/longer/than/it"]),
        ("a value a long way off       stays in", ["a value a long way off", "    stays in"]),
    ],
)
def test_a_line_breaks_between_words_and_goes_on_below_its_value(line, lines):
    assert wrapped(line, 26) == lines


def test_what_is_broken_is_red_and_what_is_copied_stays_whole():
    assert styled(BadLine("weights has other bytes"), 16) == [
        Styled("weights has", "red"),
        Styled("    other bytes", "red"),
    ]
    assert styled(Verbatim("ssh n1 -- env -i sh n1.sh"), 16) == [
        Styled("ssh n1 -- env -i sh n1.sh")
    ]


def test_a_command_folds_so_that_a_shell_reads_it_as_one():
    command = "  printf %s\\n --nproc_per_node 2 a,b=c /some/folder/train.py"
    for width in (24, 40, 80):
        lines = [line.text for line in styled(Command(command), width)]
        joined = "\n".join(lines).replace("\\\n", "")
        assert joined.split() == command.split()
        assert all(len(line) <= max(width, 30) for line in lines)
