"""Every Python process with this folder on its path writes down which packages it imports.

At once, as ranks and their workers may end without a last word: one file a process in
`$REHEARSAL_IMPORTS`, one name a line.
"""

import os
import sys
from typing import Any


def _write_down(folder: str) -> None:
    seen: set[str] = set()

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event != "import":
            return
        package = details[0].partition(".")[0]
        if package not in seen:
            seen.add(package)
            path = f"{folder}/{os.getpid()}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(file, f"{package}\n".encode())
            os.close(file)

    sys.addaudithook(hook)


if "REHEARSAL_IMPORTS" in os.environ:
    _write_down(os.environ["REHEARSAL_IMPORTS"])
