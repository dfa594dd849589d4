import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
CONTRACT = {"trainer.config", "trainer.run_dir", "trainer.seeds", "trainer.settings"}
TABLES = {"trainer.model.latent_size"} | {
    f"trainer.data.{name}"
    for name in ("batch_sampler", "buckets", "costs", "formats", "resolutions")
}
SHARED = CONTRACT - {"trainer.seeds"} | TABLES
MOST_LINES = 450


def modules(package, root=REPOSITORY):
    """Syntax trees by dotted name."""
    return {
        ".".join(file.relative_to(root).with_suffix("").parts): ast.parse(file.read_text())
        for file in sorted((root / package).rglob("*.py"))
        if file.name != "__init__.py"
    }


def imports(tree, known):
    """The dotted names that a module imports; of ours the module, not what is taken from it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
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


def imports_against_the_layers(layers, root=REPOSITORY):
    """Rule 3; `layers` from the top down."""
    level = {f"soractl.{name}": i for i, layer in enumerate(layers) for name in layer}
    trees = modules("soractl", root)
    yield from (f"{name} is in no layer" for name in sorted(trees.keys() - level.keys()))
    yield from (f"{name} does not exist" for name in sorted(level.keys() - trees.keys()))
    for name, tree in trees.items():
        for other in of("soractl", imports(tree, trees.keys())):
            if other in level and name in level and level[other] <= level[name]:
                yield f"{name} imports {other}, which is not below it"


def layers_of_the_page():
    page = (REPOSITORY / "docs/ARCHITECTURE.md").read_text()
    block = re.search(r"## Layers of soractl.*?```\n(.*?)```", page, re.DOTALL)
    return [line.split() for line in block[1].splitlines()]


def loads_torch(root=REPOSITORY):
    """Rule 2, as it shows when all of soractl is loaded."""
    names = list(modules("soractl", root))
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], cwd=root).returncode != 0


def calls(tree):
    """Dotted names of everything that is called."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


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


def test_modules_import_only_from_lower_layers():
    assert list(imports_against_the_layers(layers_of_the_page())) == []


def test_only_remote_starts_processes_and_only_output_prints():
    for name, tree in {**modules("soractl"), **modules("trainer")}.items():
        called = calls(tree)
        if name != "soractl.remote":
            assert "subprocess" not in imports(tree, set()), name
            assert not {c for c in called if c.startswith(("os.system", "os.popen", "os.spawn"))}
        if name.startswith("soractl.") and name != "soractl.output":
            assert "print" not in called, name
            assert not {c for c in called if c.startswith(("sys.stdout", "sys.stderr"))}, name


def test_the_trainer_knows_of_the_cluster_only_through_the_run_directory():
    for name in modules("trainer"):
        text = (REPOSITORY / f"{name.replace('.', '/')}.py").read_text()
        assert "SORACTL_" not in text, name


def test_no_module_is_too_long():
    for package in ("soractl", "trainer"):
        for file in (REPOSITORY / package).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= MOST_LINES, file


@pytest.fixture
def planted(tmp_path):
    """Two tiny packages that keep the rules, and a function that plants a line in a module."""

    def plant(name, line):
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{line}\n")
        return tmp_path

    for name in ("soractl.__init__", "soractl.top", "soractl.low", "trainer.__init__"):
        plant(name, "")
    for name in ("trainer.config", "trainer.train"):
        plant(name, "")
    plant("soractl.top", "from soractl import low\nfrom trainer.config import TrainConfig")
    return plant


def test_what_keeps_the_rules_passes(planted):
    root = planted("trainer.train", "from trainer.config import TrainConfig")
    assert list(imports_against_the_direction(root)) == []
    assert list(imports_against_the_layers([["top"], ["low"]], root)) == []


@pytest.mark.parametrize(
    ("module", "line", "breach"),
    [
        ("trainer.train", "import soractl.low", "trainer.train imports soractl.low"),
        (
            "trainer.train",
            "def f():\n from soractl import low",
            "trainer.train imports soractl.low",
        ),
        ("soractl.low", "from trainer import train", "soractl.low imports trainer.train"),
        ("soractl.low", "from trainer.train import main", "soractl.low imports trainer.train"),
    ],
)
def test_a_planted_breach_of_the_direction_is_found(planted, module, line, breach):
    assert list(imports_against_the_direction(planted(module, line))) == [breach]


@pytest.mark.parametrize(
    ("module", "line", "breach"),
    [
        ("soractl.low", "from soractl import top", "soractl.low imports soractl.top, which is"),
        ("soractl.new", "", "soractl.new is in no layer"),
    ],
)
def test_a_planted_breach_of_the_layers_is_found(planted, module, line, breach):
    [found] = imports_against_the_layers([["top"], ["low"]], planted(module, line))
    assert found.startswith(breach)


def test_a_planted_indirect_import_of_torch_is_found(planted):
    planted("torch", "")
    planted("soractl.top", "")
    assert not loads_torch(planted("trainer.config", ""))
    planted("trainer.config", "import torch")
    assert loads_torch(planted("soractl.low", "import trainer.config"))
