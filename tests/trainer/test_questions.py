import json
import subprocess
import sys

PROGRAM = """
import os
from trainer.questions import answer_lines

def answer(question):
    os.system("echo words of a library")
    return {"half": question["n"] // 2}

answer_lines(answer)
"""


def test_each_line_has_one_answer_and_other_output_goes_to_stderr():
    questions = '{"n": 8}\nno json\n{"n": 3}\n'
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=questions, capture_output=True, text=True
    )
    first, wrong, last = map(json.loads, done.stdout.splitlines())
    assert (first, last) == ({"half": 4}, {"half": 1})
    assert wrong == {"error": "Expecting value: line 1 column 1 (char 0)"}
    assert done.stderr.splitlines() == ["words of a library"] * 2


def test_an_error_without_words_has_its_name():
    program = (
        "from trainer.questions import answer_lines\n"
        "def answer(question):\n    raise RuntimeError\n"
        "answer_lines(answer)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input="{}\n", capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {"error": "RuntimeError"}
