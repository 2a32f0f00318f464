"""Lines of documentation of the fields of config dataclasses, which stand as strings under them."""

import ast
import functools
import inspect
import sys


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The documentation of a dataclass's fields, those of its bases included, by name; each on one line."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        docs |= _classes(base.__module__).get(base.__qualname__, {})
    return docs


@functools.cache
def _classes(module: str) -> dict[str, dict[str, str]]:
    """The documented fields of a module's classes, by name of the class."""
    if module == "builtins":
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _fields(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _fields(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            docs[field.target.id] = " ".join(text.value.value.split())
    return docs
