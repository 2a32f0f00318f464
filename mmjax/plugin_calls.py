"""Calls of what plugins registered: a fault of theirs is one line, with its kind, its name, and their file and line."""

import contextlib
import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.registry import REGISTRIES
from mmjax.registry.named_items import Registry


@contextlib.contextmanager
def calling(known: Registry, name: str, target: Any = None, expects: str = "") -> Iterator[None]:
    """A block that runs code which a plugin registered; that of ours raises what it raises.

    Args:
      known: where the code is registered.
      name: of the code.
      target: the function or class that is called, to say where it is defined.
      expects: how it is called and what it gives, as words.

    Raises:
      UserError: anything went wrong: kind, name, the line in the plugin's files, and the error.
    """
    if name not in known.added():
        yield
        return
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(_describe(known, name, target, expects, error)) from error


def wrong(known: Registry, name: str, target: Any, message: str) -> UserError:
    """The error of what does not give what it should.

    Args:
      known: where it is registered.
      name: of it.
      target: the function or class, to say where it is defined.
      message: what is wrong and what is expected.
    """
    return UserError(f"{known.describe(name)}: {definition(target)}{message}")


def definition(target: Any) -> str:
    """Where a function or a class is defined, as the beginning of a message; "" where that is not known."""
    while isinstance(target, functools.partial):
        target = target.func
    code = getattr(inspect.unwrap(target) if callable(target) else target, "__code__", None)
    if code is not None:
        return f"{code.co_filename}, line {code.co_firstlineno}: "
    if not isinstance(target, type):
        target = type(target)
    try:
        return f"{inspect.getsourcefile(target)}, line {inspect.getsourcelines(target)[1]}: "
    except (OSError, TypeError):
        return ""


def position(error: BaseException, modules: Sequence[str]) -> str:
    """The innermost line of these modules' packages that an error came from, as `definition` gives it; "" for none."""
    folders = [folder for module in modules for folder in _folders(module)]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(Path(frame.filename).is_relative_to(folder) for folder in folders):
            return f"{frame.filename}, line {frame.lineno}: "
    return ""


def summary(error: BaseException) -> str:
    """An error's kind and the first line of its message."""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    kind = "" if isinstance(error, UserError) else type(error).__name__
    return ": ".join(filter(None, [kind, text]))


def _describe(known: Registry, name: str, target: Any, expects: str, error: Exception) -> str:
    others = [registry.module(other) for registry in REGISTRIES.values() for other in registry.added()]
    # The error may have come up in another plugin, whose model an objective calls.
    where = position(error, [known.module(name)]) or position(error, list(dict.fromkeys(others)))
    wants = "" if where or not expects else f"; it is called as {expects}"
    return f"{known.describe(name)}: {where or definition(target)}{summary(error)}{wants}"


def _folders(module: str) -> list[str]:
    """The folders of a module's package, or its file where it is in none."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is not None:
        return list(spec.submodule_search_locations or filter(None, [spec.origin]))
    return list(filter(None, [getattr(sys.modules.get(module), "__file__", None)]))
