"""Recipes: Python files whose `get_config` returns a config."""

import ast
import contextlib
import dataclasses
import importlib.machinery
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax import plugin_imports
from mmjax.config import overrides, schema
from mmjax.config.schema import ConfigDict
from mmjax.errors import UserError, did_you_mean

# Modules that recipes written for mmjax 0.1 import: where their names are now.
_OLD_MODULES = {
    "mmjax.recipes": "mmjax.config.toy_presets",
    "mmjax.data.sensors": "mmjax.data.sources.sensors",
    "mmjax.evaluation.jobs": "mmjax.evaluation.suite.jobs",
}
_OLD_NAMES = {("mmjax.recipes", "on_scenes"): "apply_toy_scene_recipe", ("mmjax.recipes", "for_cpu"): "cpu_friendly"}


def parse_arg(arg: str, **defaults: Any) -> ConfigDict:
    """Parses a recipe's argument `k=v,k=v` into typed values; for use in `get_config(arg)`.

    Args:
      arg: what followed the colon in `--config=NAME:ARG`.
      **defaults: the known keys; a value takes its default's type.

    Raises:
      UserError: an unknown key or a value of the wrong type.
    """
    values = ConfigDict(defaults).lock()
    for part in filter(None, arg.split(",")):
        key, equals, text = part.partition("=")
        if not equals:
            raise UserError(
                f"--config argument {part!r} is not of the form key=value; known keys: {', '.join(defaults)}"
            )
        overrides.set_field(values, key.strip(), text, prefix="--config argument ")
    return values


def recipe_folder() -> Path:
    """Where the recipes lie: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Names of the recipes that come with mmjax, `eval` among them, which is a suite of evaluations."""
    return sorted(path.stem for path in recipe_folder().glob("*.py"))


def find(name: str, origin: str) -> Path:
    """The file of a recipe.

    Args:
      name: of one that comes with mmjax, or a path that ends in `.py`.
      origin: what names it; messages begin with it.

    Raises:
      UserError: there is none.
    """
    path = Path(name) if name.endswith(".py") else recipe_folder() / f"{name}.py"
    if not path.is_file():
        known = names()
        raise UserError(
            f"{origin}: there is no file {path}{did_you_mean(path.stem.lower(), known)};"
            f" give a path to a .py file or one of: {', '.join(known)}"
        )
    return path


@dataclasses.dataclass(frozen=True)
class Description:
    """What a recipe says of itself.

    Attributes:
      docstring: of its file.
      arguments: what it takes behind the colon of `--config=NAME:k=v`, with the defaults, as they are written.
    """

    docstring: str
    arguments: Mapping[str, str]


def describe(path: Path) -> Description:
    """Reads a recipe's file, of which nothing is run.

    Raises:
      UserError: it is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))  # bytes: the file may name another encoding than UTF-8
    except SyntaxError as error:
        raise UserError(f"{path}: not a Python file ({_reason(error, path)})") from error
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    named = (node for node in calls if getattr(node.func, "id", getattr(node.func, "attr", "")) == "parse_arg")
    arguments = {key.arg: ast.unparse(key.value) for node in named for key in node.keywords if key.arg}
    return Description(ast.get_docstring(tree) or "", arguments)


def load_recipe(spec: str, plugins: Sequence[str] = ()) -> ConfigDict:
    """Runs a recipe, and imports the plugins of its config.

    Args:
      spec: `FILE.py[:arg]`, or `NAME[:arg]` of a recipe that comes with mmjax.
      plugins: imported before it is run, and added to its config's.

    Raises:
      UserError: no such file or recipe, or its config has an unknown field, lacks one, or has a value of another type;
        or a plugin is missing or fails.
    """
    config = run_file(spec, plugins)
    if "datasets" in config and "model" not in config:
        raise UserError(f"--config={spec} is a suite of evaluations, not a run; give it to mmjax eval --config={spec}")
    schema.parse(config, f"--config={spec}")
    return config


def run_file(spec: str, plugins: Sequence[str] = ()) -> ConfigDict:
    """Runs `get_config` of a file, whatever it describes; see `load_recipe`."""
    plugin_imports.import_installed()
    plugin_imports.import_plugins(plugins, "--plugins")
    match = re.fullmatch(r"(.*?\.py)(?::(.*))?", spec)
    if match:
        name, arg = match[1], match[2] or ""
    else:
        name, _, arg = spec.partition(":")
    path = find(name, f"--config={spec}")
    loader = importlib.machinery.SourceFileLoader(f"mmjax_recipe_{path.stem}", str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses of its own are looked up
    try:
        with _old_imports():
            loader.exec_module(module)
            if not hasattr(module, "get_config"):
                raise UserError(f"--config={spec}: the file defines no get_config; write def get_config(arg)")
            config = module.get_config(arg)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"--config={spec}: the recipe failed with {_reason(error, path)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={spec}: get_config returned {type(config).__name__}, not a ConfigDict")
    _add_plugins(config, plugins, f"--config={spec}: plugins")
    return config


def _add_plugins(config: ConfigDict, plugins: Sequence[str], origin: str) -> None:
    """Imports the plugins that a config names, and adds others to them."""
    if "plugins" not in config:
        return
    of_recipe = plugin_imports.import_plugins(config.plugins, origin)
    with config.unlocked():
        config.plugins = tuple(dict.fromkeys([*of_recipe, *plugins]))


@contextlib.contextmanager
def _old_imports() -> Iterator[None]:
    """Lets a recipe import what it needs by the names of mmjax 0.1, as long as the context lasts; it may be nested."""
    added = {old: _stand_in(old) for old in _OLD_MODULES if old not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for old in added:
            del sys.modules[old]


def _stand_in(old: str) -> types.ModuleType:
    """A module whose names are looked up where they are now; nothing is imported before."""
    module = types.ModuleType(old, f"Now {_OLD_MODULES[old]}.")
    module.__getattr__ = lambda name: getattr(
        importlib.import_module(_OLD_MODULES[old]), _OLD_NAMES.get((old, name), name)
    )
    return module


def _reason(error: BaseException, path: Path) -> str:
    """The first line of an error's message, and where; of ml_collections' the nearest field, not the list of all."""
    cause = error.args[0] if error.args else error
    # As text a KeyError is quoted; ml_collections puts one into its AttributeError.
    text = str(cause.args[0] if isinstance(cause, KeyError) and cause.args else cause)
    message = (text.splitlines() or [""])[0].partition(" Other fields present")[0]
    if near := re.search(r'^Did you mean "(.*?)"', text, re.MULTILINE):
        message += f" Did you mean {near[1]!r}?"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno] if error.lineno else []
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {message}{where}"
