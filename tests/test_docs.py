import importlib.util
import re
from pathlib import Path

import pytest
import typer.main

from soractl.cli import app
from trainer.run_dir import AttemptDir, RunDir

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+?)(?:#[^)]*)?\)")
BACKTICKS = re.compile(r"`([^`]+)`")
MENTION = re.compile(r"(?:^|`|\$ )soractl ([a-z]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(command, name):
    """Every command and its help, the groups too."""
    yield name, command.help
    for inner_name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {inner_name}")


def test_the_page_of_commands_is_up_to_date(generate):
    assert generate.COMMANDS.read_text() == generate.commands_page(), "run `make docs`"


def test_the_map_is_up_to_date(generate):
    assert generate.MAP.read_text() == generate.map_page(), "run `make docs`"


def test_the_page_of_health_checks_is_up_to_date(generate):
    assert generate.HEALTH.read_text() == generate.health_page(), "run `make docs`"


def test_the_pictures_are_up_to_date(generate):
    kept = {file.name: file.read_text() for file in generate.PICTURES.glob("*.svg")}
    assert kept == generate.pictures(), "run `make docs`"


def test_every_module_says_what_it_is(generate):
    rows = re.findall(r"\| `(.+)` \| (.*) \|", generate.module_map())
    assert [name for name, line in rows if not line.endswith(".")] == []


def test_every_command_has_help():
    helps = dict(commands(typer.main.get_command(app), "soractl"))
    assert [name for name, text in helps.items() if not text] == []


def names_in_a_run():
    """Every name that the contract knows in a run's folder and in an attempt's."""
    for folder in (RunDir(Path("r")), AttemptDir(Path("r/attempts/1"))):
        for name, value in vars(type(folder)).items():
            path = getattr(folder, name) if isinstance(value, property) else None
            if isinstance(path, Path):
                yield path.name


def test_the_tree_of_a_run_has_every_name_of_the_contract():
    tree = (REPOSITORY / "docs/ARCHITECTURE.md").read_text().split("```")[3]
    assert [name for name in names_in_a_run() if name not in tree] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_links_only_to_what_is_there(page):
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def exists(pattern):
    return any(REPOSITORY.glob(pattern))


def test_the_table_of_beginnings_names_only_what_is_there():
    page = (REPOSITORY / "docs/CONTRIBUTING.md").read_text()
    table = page.partition("## Where to begin")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")][1:]
    paths = []
    for row in rows:
        folder = ""
        for path in BACKTICKS.findall(" ".join(row)):
            # a name without a folder stands beside the one before it
            path = path if "/" in path else f"{folder}/{path}"
            folder = path.rpartition("/")[0]
            paths.append(path)
    assert len(paths) > len(rows)
    assert [path for path in paths if not any(map(exists, (path.rstrip("/"), f"{path}.py")))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_commands_that_exist(page):
    known = typer.main.get_command(app).commands
    assert sorted({name for name in MENTION.findall(page.read_text()) if name not in known}) == []
