"""The stable surface: every name is there, and is what its module has."""

import ast
import importlib
from pathlib import Path

import pytest

from mmjax import plugin, plugin_imports, registry
from mmjax.data.mixture import open_source
from tests.helpers import plugin_files


def checked_imports():
    """What a type checker sees: names by module."""
    (block,) = [node for node in ast.parse(Path(plugin.__file__).read_text()).body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names if alias.asname == alias.name}


def test_a_type_checker_sees_what_python_finds():
    assert checked_imports() == plugin._MODULES and dir(plugin) == sorted(plugin._MODULES)


@pytest.mark.parametrize("name", plugin._MODULES)
def test_every_name_is_what_its_module_has(name):
    assert getattr(plugin, name) is getattr(importlib.import_module(plugin._MODULES[name]), name)
    assert name in ("REASONS", *vars(registry)) or getattr(plugin, name).__doc__


def test_all_registries_are_there():
    assert {id(known) for known in registry.REGISTRIES.values()} == {
        id(getattr(plugin, name)) for name in dir(plugin) if isinstance(getattr(plugin, name), registry.Registry)
    }


def test_another_name_is_not_there():
    with pytest.raises(AttributeError, match="mmjax.plugin has no 'sauces'; it has REASONS, BadExample"):
        plugin.sauces  # noqa: B018


def test_the_source_of_the_docs_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    code = text.partition("## Sources and tokenizers of your own")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "source_of_the_docs.py").write_text(code)
    (tmp_path / "7.jpg").write_bytes(b"an image")
    with plugin_files.path_entry(tmp_path):
        plugin_imports.import_plugins(("source_of_the_docs",))
        record = open_source(f"mine:{tmp_path}")[7]
    assert record["image"] == b"an image" and record["captions"] == ["picture 7"]
    imported = {node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"mmjax.plugin"}
