"""Roles of parameters by their paths, patterns that name parameters, and which of them are frozen.

Layer parameters are stored stacked, so neither the number of axes nor the shape shows what a parameter is: `role` does.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from mmjax.errors import UserError, did_you_mean
from mmjax.nn.config import STATISTICS
from mmjax.nn.low_rank import is_adapter


def role(path: str) -> str:
    """The role of a parameter: `matrix`, `embedding`, or `vector` (biases, norms, positions, probes, scales)."""
    leaf = path.rsplit("/", 1)[-1]
    if is_adapter(path):
        return "matrix"
    return {"kernel": "matrix", "token_embedding": "embedding", "embedding": "embedding"}.get(leaf, "vector")


def is_stacked(path: str) -> bool:
    """Whether the first axis counts layers."""
    return not {"layers", "cross_layers"}.isdisjoint(path.split("/"))


def is_statistic(path: str) -> bool:
    """Whether a parameter is a statistic of batch norm, which stays as it is whatever is trained."""
    return path.rpartition("/")[2] in STATISTICS


def matches(patterns: Iterable[str], path: str) -> bool:
    """Whether one of the patterns matches a whole path."""
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def expand(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The patterns, with the name of a part of the model, such as `audio`, as the patterns of it and of its head.

    Args:
      patterns: regular expressions for whole paths, or names.
      names: the paths there are.
    """
    parts = {name.split("/")[0] for name in names if "/" in name}
    result = []
    for pattern in patterns:
        ours = [part for part in (pattern, f"{pattern}_head") if part in parts]
        result += [f"{part}/.*" for part in ours] if pattern in parts else [pattern]
    return tuple(result)


def check_pattern(field: str, pattern: str, names: Sequence[str], presets: Sequence[str] = ()) -> None:
    """Checks that a pattern of a field matches a parameter.

    Args:
      field: of the config.
      pattern: a regular expression for a whole path.
      names: the paths there are.
      presets: names that the field may have in place of a pattern.

    Raises:
      UserError: it is not a regular expression, or it matches none.
    """
    try:
        is_there = any(re.fullmatch(pattern, name) for name in names)
    except re.error as error:
        raise UserError(f"{field}={pattern!r} is not a regular expression: {error}") from error
    if not is_there:
        others = f", and is none of {', '.join(presets)}{did_you_mean(pattern, presets)}" if presets else ""
        raise UserError(f"{field}={pattern!r} matches no parameter path, such as {names[0]!r}{others}")


def find_frozen(params: Any, patterns: Sequence[str], *, field: str = "optimizer.freeze") -> Any:
    """Which parameters of a tree are frozen, a tree of booleans: by patterns, and statistics of batch norm always.

    Raises:
      UserError: a pattern matches no parameter, or nothing is left to train.
    """
    path_of = lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/")
    paths = jax.tree_util.tree_map_with_path(path_of, params)
    names = jax.tree.leaves(paths)
    patterns = expand(patterns, names)
    for pattern in patterns:
        check_pattern(field, pattern, names)
    if all(matches(patterns, name) or is_statistic(name) for name in names):
        raise UserError(f"{field}={tuple(patterns)} freezes every parameter; leave something to train")
    return jax.tree.map(lambda path: matches(patterns, path) or is_statistic(path), paths)
