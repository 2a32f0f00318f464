"""The structure of the code: which room may import which, and what no file may hold."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import step_files
from scripts.house_poster import imported_names, is_fields, room_of

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mmjax"
CODE = ("mmjax", "campaigns", "configs", "benchmarks", "scripts", "tests")
FILES = sorted(PACKAGE.rglob("*.py"))
# The rooms, lowest first. A room may import those below its line, and nothing imports `cli`.
ORDER = (
    ("errors",),
    ("registry",),
    ("plugin_calls",),
    ("plugin_imports",),
    ("utils",),
    ("io",),
    ("metrics",),
    ("data", "parallel"),
    ("nn", "objectives"),
    ("models",),
    ("config",),  # the table of sizes is `models`'
    ("interop", "tasks"),
    ("evaluation",),
    ("report",),
    ("training",),
    ("inference", "plan"),
    ("search",),
    ("cli",),
    ("plugin",),  # for plugins alone
)
HEIGHT = {room: height for height, rooms in enumerate(ORDER) for room in rooms}


def imports(text: str, *, fields: bool = True) -> set[str]:
    """Rooms of mmjax that a file imports; without `fields` but for their `config.py`."""
    names = {name for name in imported_names(text) if name.startswith("mmjax.") and (fields or not is_fields(name))}
    return {name.split(".")[1] for name in names} - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_depend_downwards(path):
    room = room_of(path)
    if room == "__init__":
        assert imports(path.read_text()) == {"utils"}  # the version
        return
    # `config` assembles the fields of all rooms.
    names = imports(path.read_text(), fields=room != "config")
    above = {other for other in names if HEIGHT[other] >= HEIGHT[room]} - {room}
    assert not above, f"{room} may import only rooms that stand below it in ORDER, and not {', '.join(sorted(above))}"


FIELDS = [
    path
    for path in FILES
    if path.name in ("config.py", *(f"{of}_config.py" for of in ("image", "text", "slot", "towers")))
]


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_fields_need_the_standard_library_alone(path):
    """Errors, too, and the fields of rooms below: what the config's room imports is quick to import."""
    names = imported_names(path.read_text())
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names) | {"mmjax"}
    assert all(name.startswith("mmjax.errors") or is_fields(name) for name in names if name.startswith("mmjax"))


def test_fields_are_in_many_rooms():
    assert {room_of(path) for path in FIELDS} >= {"data", "parallel", "nn", "objectives", "models", "training"}


def test_every_folder_is_a_room():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms | {"errors", "registry", "plugin_calls", "plugin_imports", "plugin"} == set(HEIGHT)


def test_no_file_has_the_name_of_a_room_or_of_a_module_of_python():
    rooms = {path.name for path in PACKAGE.rglob("*") if (path / "__init__.py").is_file()}
    exempt = lambda path: path.parent.name == "cli" or path.name in ("__init__.py", "config.py")
    names = {path.stem: path for path in FILES if not exempt(path)}
    assert not rooms & set(names)
    assert not set(sys.stdlib_module_names) & set(names)


def test_no_file_has_the_name_of_its_neighbour_but_for_an_ending():
    for folder in {path.parent for path in FILES}:
        names = {path.stem for path in folder.glob("*.py")} | {
            path.parent.name for path in folder.glob("*/__init__.py")
        }
        pairs = [
            (name, name + ending)
            for name in names
            for ending in ("s", "es", "ed", "ing", "er")
            if name + ending in names
        ]
        assert not pairs, f"{folder}: choose names that differ by more than an ending"


def test_imports_are_found_in_every_form():
    text = "import mmjax.nn.pool\nfrom mmjax import tasks\ndef f():\n    from mmjax.training import loop\nimport os"
    assert imports(text) == {"nn", "tasks", "training"}
    text = (
        "from mmjax.models import config as models\nfrom mmjax.data.config import DataConfig\nfrom mmjax import config"
    )
    assert imports(text) == {"models", "data", "config"} and imports(text, fields=False) == {"config"}


def test_the_loop_needs_protocols_and_fields_not_what_implements_them():
    """The modules that the training loop reaches; those of models, tasks and sources are not among them."""
    modules = step_files.reached("mmjax.training.loop")
    assert len(modules) <= 92
    assert not [
        name for name in modules if re.match(r"mmjax\.(tasks|inference|interop|plan|cli|data\.sources)\b", name)
    ]


def test_metrics_need_no_device():
    """The metrics are plain numpy."""
    text = (ROOT / "mmjax/metrics/classification.py").read_text()
    assert not re.search(r"^\s*(import|from) (jax|flax)\b", text, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_one_subject(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_design_names_files_that_are_there():
    text = (ROOT / "docs/design.md").read_text()
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", text)) - {"cli/COMMAND.py"}
    assert len(named) > 40
    assert not [name for name in sorted(named) if not any((base / name).is_file() for base in (PACKAGE, ROOT))]


# What such a name means is anybody's guess: `message`, `metrics`, `labels`, `positions`, `result` say what they are.
BANNED = {"told", "found", "own", "each", "at", "there", "given", "whole", "said", "asked", "place", "places"}
OURS = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] in CODE and "fixtures" not in path.parts
]


def identifiers(text: str) -> set[str]:
    """Names that a file gives to variables, parameters, attributes, functions, classes and what it imports."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return {name.strip("_") for name in names}


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_identifiers_say_what_they_are(path):
    banned = sorted(identifiers(path.read_text()) & BANNED)
    assert not banned, "say what it is, as message, metrics, labels, positions do"


def test_identifiers_are_read_in_every_form():
    text = "import a as told\ndef found(own, *, each=1):\n    self.place = [at for at in there]\n    whole: int = 1"
    assert identifiers(text) >= {"told", "found", "own", "each", "place", "at", "whole"}


# Folders of tests that have no room: what they test lies beside the package.
_BESIDE = {"benchmarks", "recipes", "helpers", "golden", "fixtures"}
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_lie_where_what_they_test_lies(path):
    folder = path.parent.relative_to(ROOT / "tests")
    if folder == Path() or folder.parts[0] in _BESIDE:
        return
    subject = path.stem.removeprefix("test_")
    modules = {module.stem for module in (PACKAGE / folder).glob("*.py")} - {"__init__"}
    is_there = any(subject == module or subject.startswith(f"{module}_") for module in modules)
    assert is_there, (
        f"{path.name} in tests/{folder} tests mmjax/{folder}/{subject}.py, or a module that its name begins with"
    )


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_nothing_loads_a_pickle_or_tensorflow():
    for path in FILES:
        assert not re.search(r"^\s*(import|from) (pickle|dill|tensorflow|torch)\b", path.read_text(), re.MULTILINE), (
            path
        )


def test_no_file_names_a_machine():
    # Written in pieces, so that this file passes too.
    words = ["/" + "work/", "/" + "root/", "pypi" + ".org", "index" + "-url"]
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".yml", "") and path.stat().st_size < 1_000_000:
            text = path.read_text(errors="ignore")
            assert not [word for word in words if word in text], path
