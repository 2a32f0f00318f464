"""The structure of the code: which room may import which, and what no file may hold."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "mmjax").rglob("*.py"))
# What each room may import besides itself and the plain modules below. Rooms depend downwards only.
ROOMS = {
    "nn": {"parallel"},
    "models": {"nn", "parallel"},
    "objectives": {"parallel"},
    "data": set(),
    "parallel": set(),
    "generation": {"parallel"},
    "evaluation": {"data", "parallel"},
    "tasks": {"nn", "models", "objectives", "data", "parallel", "generation"},
    "older": set(),
    "override": set(),
    "config": {"models", "older", "override"},  # `models`: the size table
    "recipes": set(),
    "interop": {"nn", "models", "data", "parallel", "config"},
    "training": {
        *("nn", "models", "objectives", "data", "parallel", "evaluation", "tasks", "config", "older", "interop"),
    },
    "plan": {"data", "parallel", "tasks", "training"},
    "given": {"data", "generation"},
    "opened": {"data", "parallel", "tasks", "training", "config", "interop"},
}
PLAIN = {"errors", "storage", "eot"}
TOP = {"cli", "evaluate", "hub", "convert", "info", "search", "__init__"}  # may import anything


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "mmjax").with_suffix("").parts
    return parts[0]


def imports(text: str) -> set[str]:
    """Rooms of mmjax that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("mmjax.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_depend_downwards(path):
    room = room_of(path)
    if room in TOP:
        return
    allowed = PLAIN if room in PLAIN else PLAIN | {room} | ROOMS[room]
    assert imports(path.read_text()) <= allowed


def test_imports_are_found_in_every_form():
    text = "import mmjax.nn.pool\nfrom mmjax import tasks\ndef f():\n    from mmjax.training import loop\nimport os"
    assert imports(text) == {"nn", "tasks", "training"}


def test_metrics_need_no_device():
    """The metrics are plain numpy."""
    text = (ROOT / "mmjax/evaluation/metrics.py").read_text()
    assert not re.search(r"^\s*(import|from) (jax|flax)\b", text, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_one_subject(path):
    assert len(path.read_text().splitlines()) <= 450


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
