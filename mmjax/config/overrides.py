"""Overrides of fields from the command line: text, read as the type that a field has."""

import ast
import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mmjax.config import field_values, kinds, typed_groups
from mmjax.config.schema import RunConfig
from mmjax.errors import UserError, did_you_mean


def apply(config: ConfigDict, overrides: Sequence[tuple[str, str]], cls: type | None = RunConfig) -> None:
    """Sets fields in place from (dotted path, text) pairs, as `--config.PATH=TEXT` gives them; see `set_field`."""
    for path, text in overrides:
        if path == "variant":
            raise UserError(
                f"--config.variant={text} would change a label, not the model; give the size to the recipe:"
                f" --config=NAME:variant={text}"
            )
        if path == "plugins":
            raise UserError(f"--config.plugins={text} comes too late for the recipe; give --plugins=mypkg.mmjax,...")
        set_field(config, path, text, prefix="--config.", cls=cls)


def set_field(config: ConfigDict, path: str, text: str, *, prefix: str = "", cls: type | None = None) -> None:
    """Sets one field from text; the text is read as the type that the field has.

    Args:
      config: changed in place.
      path: of the field.
      text: its value.
      prefix: what the user wrote before the path.
      cls: the dataclass of the config, which says where a value may have several types; None where it has none.

    Raises:
      UserError: the field does not exist (the nearest name is given) or the value is of another type.
    """
    node: Any = config
    *parents, last = path.split(".")
    for depth, part in enumerate([*parents, last]):
        if cls is not None:
            _add_default(node, cls, config, ".".join([*parents, last][: depth + 1]))
        if not isinstance(node, ConfigDict) or part not in node:
            where = ".".join(path.split(".")[:depth]) or "the config"
            if not isinstance(node, ConfigDict):
                if node is None:
                    raise UserError(
                        f"{prefix}{path}: {where} is none here; a recipe sets all of such a group:"
                        f" mmjax.config.set_group(config, {where!r}, dict(...))"
                    )
                raise UserError(f"{prefix}{path}: {where} is one value, not a group of fields; set {prefix}{where}")
            known = list(node)
            lacks = f"{prefix}{path}: {where} has no field {part!r}"
            if elsewhere := [field for field in _field_paths(config) if f".{field}".endswith(f".{path}")]:
                raise UserError(f"{lacks}; set {' or '.join(f'{prefix}{field}' for field in elsewhere)}")
            raise UserError(f"{lacks}{did_you_mean(part, known)}; it has: {', '.join(known)}")
        if depth < len(parents):
            if node[part] is None and cls is not None:
                _begin_group(node, cls, config, [*parents[: depth + 1]])
            node = node[part]
    current = node[last]
    if isinstance(current, ConfigDict):
        raise UserError(f"{prefix}{path}={text}: {path} is a group of fields; set one of: {', '.join(current)}")
    expected = None if cls is None else typed_groups.field_type(cls, config, path.split("."))
    with node.ignore_type():  # types are checked here, with better words
        node[last] = _parse_value(f"{prefix}{path}", text, current, expected)


def _field_paths(config: ConfigDict, prefix: str = "") -> list[str]:
    """The dotted paths of all fields in all groups."""
    paths = []
    for name, value in config.items():
        paths += _field_paths(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [prefix + name]
    return paths


def _add_default(group: Any, cls: type, config: ConfigDict, path: str) -> None:
    """Gives a group a field that it may have and that its size leaves at the default."""
    *_, name = path.split(".")
    if not isinstance(group, ConfigDict) or name in group:
        return
    default = typed_groups.field_default(cls, config, path.split("."))
    if default is not dataclasses.MISSING:
        with group.unlocked():
            group[name] = default


def _begin_group(node: ConfigDict, cls: type, config: ConfigDict, path: Sequence[str]) -> None:
    """Puts a group with its defaults where there may be one and is none, such as a tower's `block`.

    Nothing is put where no such group can be made of defaults: a slot's encoder has sizes, and its kind.
    """
    group = typed_groups.group_class(typed_groups.field_type(cls, config, path))
    if (
        group is None
        or group in kinds.KINDS
        or any(
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            for field in dataclasses.fields(group)
        )
    ):
        return
    with node.unlocked(), node.ignore_type():
        node[path[-1]] = ConfigDict(typed_groups.to_dict(group()))


def _parse_value(field: str, text: str, current: Any, expected: Any) -> Any:
    has_several_types = len(field_values.options_of(expected)) > 1
    if isinstance(current, str) and not has_several_types:
        return text.strip("'\"") if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if has_several_types:
        wanted, values = field_values.describe(expected), list(field_values.fitting(expected, value))
        value, fits = (values[0], True) if values else (value, False)
    elif isinstance(current, tuple):
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,) if isinstance(value, str) else value
        fits = isinstance(value, tuple) and _same_kind(value, current, expected)
        numbers = current and all(isinstance(item, (int, float)) for item in current)
        wanted = f"a tuple such as {current!r}" if numbers else "a tuple such as \"('a', 'b')\""
    elif isinstance(current, float):
        wanted, value = "a number", float(value) if type(value) is int else value
        fits = type(value) is float and math.isfinite(value)
    elif isinstance(current, bool):
        wanted, fits = "true or false", type(value) is bool
    else:
        if type(value) is float and value.is_integer():
            value = int(value)  # 1e5 steps
        wanted, fits = "an integer", type(value) is int
    if not fits:
        raise UserError(f"{field}={text}: wants {wanted}, and has {current!r} now")
    return value


def _same_kind(value: tuple, current: tuple, expected: Any) -> bool:
    """Whether a tuple of numbers stays one, of a length that it may have.

    What else a tuple holds is checked where it is used.
    """
    if Ellipsis in typing.get_args(expected):
        return any(True for _ in field_values.fitting(expected, value))
    if not current or not all(isinstance(item, (int, float)) for item in current):
        return True
    return len(value) == len(current) and all(type(item) in (int, float) for item in value)
