import os
import subprocess
import sys
from pathlib import Path

from tests.rehearsal import imports

RECORDING = Path(__file__).parent / "recording"
PROJECT = """\
[project]
name = "soractl"
dependencies = ["rich"]
[project.optional-dependencies]
train = ["pandas", "wandb"]
"""


def test_a_forked_process_that_ends_without_a_word_has_its_imports_noted(tmp_path):
    code = "import os; pid = os.fork(); import PIL; pid or os._exit(1)"
    environment = {**os.environ, "PYTHONPATH": str(RECORDING), "REHEARSAL_IMPORTS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert imports.imported(tmp_path) == {"pillow"}
    assert sum("PIL" in file.read_text().split() for file in tmp_path.iterdir()) == 2


def test_what_is_asked_for_and_what_is_imported_must_be_the_same(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(PROJECT)
    used = {"rich", "pygments", "pandas", "numpy", "wandb", "soractl", "colossalai"}
    assert list(imports.faults(used, pyproject)) == []
    assert list(imports.faults(used - {"wandb"} | {"sentencepiece"}, pyproject)) == [
        "wandb is in the extra `train`, and no process imported it: drop it, or say why",
        "sentencepiece was imported, and nothing in pyproject.toml asks for it",
    ]
