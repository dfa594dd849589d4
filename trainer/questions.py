"""Questions on stdin, answers on stdout: a JSON object a line, until stdin ends."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def answer_lines(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each line; an error is `{"error": ...}`. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            given = answer(json.loads(line))
        except (RuntimeError, ValueError, OSError) as error:
            given = {"error": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}
        answers.write(json.dumps(given) + "\n")
        answers.flush()
