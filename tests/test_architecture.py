import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
RUN_FOLDER = {
    f"trainer.{name}" for name in ("atomic_files", "checkpoint_dir", "manifest", "run_dir")
}
CONTRACT = RUN_FOLDER | {
    f"trainer.{name}" for name in ("config", "seeds", "settings", "stage_files")
}
TABLES = {"trainer.model.latent_size"} | {
    f"trainer.data.{name}"
    for name in ("batch_sampler", "buckets", "costs", "formats", "resolutions")
}
# Read clips and tables of them for both: what is measured is what is trained on.
READERS = {
    "trainer.data.video_file": {"av", "numpy"},
    "trainer.data.picture": {"PIL", "numpy"},
    "trainer.data.table_columns": {"pandas", "numpy"},
}
SHARED = CONTRACT - {"trainer.seeds"} | TABLES | READERS.keys()
MOST_LINES = 450
MOST_MODULES = 16
STARTS_PROGRAMS = {"soractl.remote.local", "soractl.processes.reserve"}  # the second on nodes


def modules(package, root=REPOSITORY):
    """Syntax trees by dotted name."""
    return {
        ".".join(file.relative_to(root).with_suffix("").parts): parsed(file.read_text())
        for file in sorted((root / package).rglob("*.py"))
        if file.name != "__init__.py"
    }


@cache
def parsed(source):
    return ast.parse(source)


@cache
def nodes_of(tree, kind):
    """All nodes of a kind: every rule walks the same trees."""
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def imports(tree, known):
    """The dotted names that a module imports; of ours the module, not what is taken from it."""
    found = {alias.name for node in nodes_of(tree, ast.Import) for alias in node.names}
    for node in nodes_of(tree, ast.ImportFrom):
        inner = {f"{node.module}.{alias.name}" for alias in node.names}
        found |= inner & known or {node.module}
    return found


def of(package, names):
    return {name for name in names if name.partition(".")[0] == package}


def imports_against_the_direction(root=REPOSITORY):
    """Rules 1 and 2, as they stand in the text of the modules."""
    soractl, trainer = modules("soractl", root), modules("trainer", root)
    known = {*soractl, *trainer}
    for name, tree in trainer.items():
        yield from (f"{name} imports {other}" for other in of("soractl", imports(tree, known)))
    for name, tree in soractl.items():
        foreign = of("trainer", imports(tree, known)) - SHARED
        yield from (f"{name} imports {other}" for other in foreign)


def imports_against_the_rooms(rooms, root=REPOSITORY):
    """Rule 3; `rooms` from left to right, the last one is `cli`."""
    place = {room: i for i, room in enumerate(rooms)}
    trees = modules("soractl", root)
    found = {room_of(name) for name in trees}
    yield from (f"room {room} is not on the page" for room in sorted(found - place.keys()))
    yield from (f"room {room} does not exist" for room in sorted(place.keys() - found))
    for name, tree in trees.items():
        for other in sorted(of("soractl", imports(tree, trees.keys())) & trees.keys()):
            if name.endswith(".commands") and room_of(other) != "cli":
                continue
            if place.get(room_of(other), -1) > place.get(room_of(name), -1):
                yield f"{name} imports {other}, which is not to its left"
            if other.endswith(".commands") and room_of(name) != "cli":
                yield f"{name} imports {other}, which `cli` alone may"


def circles(root=REPOSITORY):
    """Modules of one room that import each other, directly or around corners."""
    trees = modules("soractl", root)
    inner = {
        name: {
            other
            for other in imports(tree, trees.keys()) & trees.keys()
            if room_of(other) == room_of(name)
        }
        for name, tree in trees.items()
    }
    try:
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        yield " -> ".join(error.args[1])


def room_of(name):
    return name.split(".")[1]


def rooms_of_the_page():
    page = (REPOSITORY / "docs/ARCHITECTURE.md").read_text()
    block = re.search(r"## The rooms of soractl.*?```\n(.*?)```", page, re.DOTALL)
    return block[1].replace("|", " ").split()


def loads_torch(root=REPOSITORY):
    """Rule 2, as it shows when all of soractl is loaded."""
    names = list(modules("soractl", root))
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], cwd=root).returncode != 0


def calls(tree):
    """Dotted names of everything that is called."""
    return {ast.unparse(node.func) for node in nodes_of(tree, ast.Call)}


def test_imports_go_one_way():
    assert list(imports_against_the_direction()) == []


def test_no_module_of_soractl_loads_torch():
    assert not loads_torch()


def test_the_contract_needs_only_the_standard_library():
    trees = modules("trainer")
    allowed = {*sys.stdlib_module_names, "trainer"}
    for name in CONTRACT:
        found = imports(trees[name], trees.keys())
        assert {other for other in found if other.partition(".")[0] not in allowed} == set()
        assert of("trainer", found) <= CONTRACT
    assert (REPOSITORY / "trainer/__init__.py").read_text() == ""


def test_the_shared_tables_need_only_numpy_and_the_contract():
    trees = modules("trainer")
    allowed = {*sys.stdlib_module_names, "numpy", "trainer"}
    for name in TABLES:
        found = imports(trees[name], trees.keys())
        assert {other for other in found if other.partition(".")[0] not in allowed} == set()
        assert of("trainer", found) <= CONTRACT | TABLES
    for package in ("data", "model"):
        assert (REPOSITORY / "trainer" / package / "__init__.py").read_text() == ""


def test_the_shared_readers_need_only_what_reads_their_files():
    trees = modules("trainer")
    for name, allowed in READERS.items():
        found = imports(trees[name], trees.keys())
        foreign = {other.partition(".")[0] for other in found} - {*sys.stdlib_module_names}
        assert foreign <= allowed | {"trainer"}
        assert of("trainer", found) <= CONTRACT | TABLES | READERS.keys()


def test_modules_import_from_their_own_room_and_those_to_its_left():
    assert list(imports_against_the_rooms(rooms_of_the_page())) == []


def test_no_room_has_a_circle():
    assert list(circles()) == []


def test_no_room_has_more_than_sixteen_modules():
    sizes = Counter(room_of(name) for name in modules("soractl"))
    assert {room: size for room, size in sizes.items() if size > MOST_MODULES} == {}


PROBE = "soractl.launch.probe"  # a program of its own on a node: it imports nothing of ours
PRINTS = {
    "soractl.terminal.output",
    "soractl.terminal.progress_bar",  # draws on stderr
    PROBE,  # its answer is what it prints
}


def test_only_remote_starts_processes_and_only_output_prints():
    for name, tree in {**modules("soractl"), **modules("trainer")}.items():
        called = calls(tree)
        if name not in STARTS_PROGRAMS:
            assert "subprocess" not in imports(tree, set()), name
            assert not {c for c in called if c.startswith(("os.system", "os.popen", "os.spawn"))}
        if name.startswith("soractl.") and name not in PRINTS:
            assert "print" not in called, name
            assert not {c for c in called if c.startswith(("sys.stdout", "sys.stderr"))}, name


def test_times_in_a_runs_folder_are_of_the_clock_that_dates_its_files():
    rooms = ("runs", "launch", "supervise", "jobs", "diagnosis", "account")
    asked = {
        name
        for room in rooms
        for name, tree in modules(f"soractl/{room}").items()
        if {"time.time", "datetime.now"} & calls(tree)
    }
    # the one exception: to measure a node's offset
    assert asked == {"soractl.launch.preflight", "soractl.diagnosis.node_facts"}


def test_what_is_not_linted_or_not_run_has_its_reason_on_its_line():
    bare = re.compile(r"#\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[^\]]*\])?)\s*$")
    roots = ("soractl", "trainer", "tests", "benchmarks")
    files = [path for root in roots for path in (REPOSITORY / root).rglob("*.py")]
    lines = [
        f"{file.name}: {line}"
        for file in files
        for line in file.read_text().splitlines()
        if bare.search(line) or re.search(r"pytest\.(mark\.)?(skip|xfail)(\(\))?$", line)
    ]
    assert lines == []


def test_the_trainer_knows_of_the_cluster_only_through_the_run_directory():
    for name in modules("trainer"):
        text = (REPOSITORY / f"{name.replace('.', '/')}.py").read_text()
        assert "SORACTL_" not in text, name


FILE_NAMES = (
    *("checkpoint.json", "run.json", "plan.json", "exit.json", "stopped.json", "decision.json"),
    *(
        "events.jsonl",
        "supervisor.json",
        "heartbeat.json",
        "metrics.jsonl",
        "bucket_seconds.json",
        "wandb_id",
        "wandb_step",
    ),
    *("superseded_", ".draft-", ".replaced-", ".removed-", ".read-by-", "-global_step"),
)


def test_the_file_names_of_a_run_are_spelled_in_the_contract_alone():
    found = [
        f"{name}: {text!r}"
        for name, tree in {**modules("soractl"), **modules("trainer")}.items()
        if name not in RUN_FOLDER and name != PROBE
        for text in spelled(tree)
    ]
    assert found == []


def test_the_trainer_knows_no_command_of_soractl():
    for name in modules("trainer"):
        text = (REPOSITORY / f"{name.replace('.', '/')}.py").read_text()
        assert "`soractl " not in text, name


def spelled(tree):
    """Texts of a module that are, or begin with, a file name of a run; docstrings have spaces."""
    for node in nodes_of(tree, ast.Constant):
        if isinstance(node.value, str) and any(map(is_spelled, node.value.split("/"))):
            yield node.value
    for node in nodes_of(tree, ast.Attribute):
        if node.attr == "parent" and ast.unparse(node).endswith("path.parent.parent"):
            yield ast.unparse(node)


def is_spelled(word):
    return " " not in word and word.startswith(FILE_NAMES)


def test_no_module_is_too_long():
    for package in ("soractl", "trainer"):
        for file in (REPOSITORY / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= MOST_LINES, file


QUESTION = re.compile(r"(What|How|Where|Which|Why|Whether|Who)\b")


def docstrings_that_ask(root=REPOSITORY):
    """Docstrings of both packages that begin with a question's word, not with the thing."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for package in ("soractl", "trainer"):
        for name, tree in modules(package, root).items():
            for node in nodes_of(tree, kinds):
                if QUESTION.match(ast.get_docstring(node) or ""):
                    yield f"{name}.{getattr(node, 'name', '')}"


def test_a_docstring_begins_with_the_thing_that_it_describes():
    assert list(docstrings_that_ask()) == []


TYPED = {"commands", "options"}  # in tests/soractl/test_cli.py, test_completion.py, or their room's
# No test file of their own name, and why.
CHECKS = "a list: each line is tested by tests/soractl/health/test_checks.py"
WITHOUT_TESTS_OF_THEIR_NAME = {
    "soractl.health.checks_gpu": CHECKS,
    "soractl.health.checks_network": CHECKS,
    "soractl.health.checks_system": CHECKS,
    "trainer.model.kernels.constants": "three numbers",
    "trainer.model.kernels.available": "an expression of what torch and the machine say",
    "trainer.precision": "a table of two types",
    "trainer.train": "a start that tests/trainer/test_packages.py and tests/end_to_end make",
}


def without_tests_of_their_name(root=REPOSITORY):
    """Modules without `tests/<path>/test_<module>.py`; what is typed is tested as it is typed."""
    for package in ("soractl", "trainer"):
        for name in modules(package, root):
            folder, _, module = name.replace(".", "/").rpartition("/")
            is_there = (root / "tests" / folder / f"test_{module}.py").exists()
            if not is_there and module not in TYPED:
                yield name


def test_every_module_has_a_test_file_of_its_name():
    assert set(without_tests_of_their_name()) == WITHOUT_TESTS_OF_THEIR_NAME.keys()


@pytest.fixture
def planted(tmp_path):
    """Two tiny packages that keep the rules, and a function that plants a line in a module."""

    def plant(name, line):
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(f"{line}\n")
        return tmp_path

    for name in (
        "soractl.right.top",
        "soractl.left.low",
        "soractl.left.commands",
        "soractl.__init__",
    ):
        plant(name, "")
    for name in ("trainer.__init__", "trainer.config", "trainer.train"):
        plant(name, "")
    plant("soractl.cli", "from soractl.left import commands")
    plant("soractl.left.commands", "from soractl.right import top")
    plant("soractl.right.top", "from soractl.left import low\nimport trainer.config")
    return plant


ROOMS = ["left", "right", "cli"]


def test_a_docstring_that_asks_is_found(planted):
    root = planted("soractl.right.top", 'class Row:\n    """What one row shows."""')
    assert list(docstrings_that_ask(root)) == ["soractl.right.top.Row"]


def test_what_keeps_the_rules_passes(planted):
    root = planted("trainer.train", "from trainer.config import TrainConfig")
    assert list(imports_against_the_direction(root)) == []
    assert list(imports_against_the_rooms(ROOMS, root)) == []
    assert list(circles(root)) == []


@pytest.mark.parametrize(
    ("module", "line", "breach"),
    [
        ("trainer.train", "import soractl.left.low", "trainer.train imports soractl.left.low"),
        (
            "trainer.train",
            "def f():\n from soractl.left import low",
            "trainer.train imports soractl.left.low",
        ),
        (
            "soractl.left.low",
            "from trainer import train",
            "soractl.left.low imports trainer.train",
        ),
        (
            "soractl.left.low",
            "from trainer.train import main",
            "soractl.left.low imports trainer.train",
        ),
    ],
)
def test_a_planted_breach_of_the_direction_is_found(planted, module, line, breach):
    assert list(imports_against_the_direction(planted(module, line))) == [breach]


@pytest.mark.parametrize(
    ("module", "line", "breach"),
    [
        (
            "soractl.left.low",
            "from soractl.right import top",
            "soractl.left.low imports soractl.right.top, which is not to its left",
        ),
        (
            "soractl.right.top",
            "from soractl.left.commands import app",
            "soractl.right.top imports soractl.left.commands, which `cli` alone may",
        ),
        ("soractl.new.low", "", "room new is not on the page"),
    ],
)
def test_a_planted_breach_of_the_rooms_is_found(planted, module, line, breach):
    assert list(imports_against_the_rooms(ROOMS, planted(module, line))) == [breach]


def test_a_planted_circle_is_found(planted):
    planted("soractl.left.one", "from soractl.left import low")
    [found] = circles(planted("soractl.left.low", "from soractl.left import one"))
    assert "soractl.left.low -> soractl.left.one" in f"{found} -> {found}"


def test_a_planted_indirect_import_of_torch_is_found(planted):
    planted("torch", "")
    assert not loads_torch(planted("trainer.config", ""))
    planted("trainer.config", "import torch")
    assert loads_torch(planted("soractl.left.low", "import trainer.config"))


def test_a_planted_module_without_tests_is_found(planted, tmp_path):
    for name in ("soractl.test_cli", "soractl.right.test_top", "soractl.left.test_low"):
        planted(f"tests.{name}", "")
    planted("tests.trainer.test_config", "")
    assert list(without_tests_of_their_name(tmp_path)) == ["trainer.train"]
