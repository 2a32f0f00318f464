"""Overrides of fields from the command line: text, read as the type that a field has."""

import ast
import math
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError, did_you_mean

# Numbers that may also be None.
OPTIONAL = ("model.logit_bias_init", "model.max_logit_scale")
# Fields that are true, false or 'auto', by the end of their path.
AUTO_OR_BOOL = ("deterministic", ".scan")


def apply(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> None:
    """Sets fields in place from (dotted path, text) pairs, as `--config.PATH=TEXT` gives them."""
    for path, text in overrides:
        if path == "variant":
            raise UserError(
                f"--config.variant={text} would change a label, not the model; give the size to the recipe:"
                f" --config=NAME:variant={text}"
            )
        set_field(config, path, text, prefix="--config.")


def set_field(config: ConfigDict, path: str, text: str, *, prefix: str = "") -> None:
    """Sets one field from text; the text is read as the type the field has.

    Raises:
      UserError: the field does not exist (the nearest name is given) or the value is of another type.
    """
    node = config
    *parents, last = path.split(".")
    for depth, part in enumerate([*parents, last]):
        if not isinstance(node, ConfigDict) or part not in node:
            where = ".".join(path.split(".")[:depth]) or "the config"
            if not isinstance(node, ConfigDict):
                raise UserError(f"{prefix}{path}: {where} is one value, not a group of fields; set {prefix}{where}")
            known = list(node)
            raise UserError(
                f"{prefix}{path}: {where} has no field {part!r}{did_you_mean(part, known)}; it has: {', '.join(known)}"
            )
        if depth < len(parents):
            node = node[part]
    current = node[last]
    if isinstance(current, ConfigDict):
        raise UserError(f"{prefix}{path}={text}: {path} is a group of fields; set one of: {', '.join(current)}")
    with node.ignore_type():  # types are checked here, with better words
        node[last] = _parse_value(f"{prefix}{path}", text, current)


def _parse_value(field: str, text: str, current: Any) -> Any:
    is_auto_or_bool = field.endswith(AUTO_OR_BOOL)
    if isinstance(current, str) and not is_auto_or_bool:
        return text.strip("'\"") if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if is_auto_or_bool:
        value = value.strip("'\"") if isinstance(value, str) else value
        wanted, fits = "true, false or auto", is_true_false_or_auto(value)
    elif field.endswith(OPTIONAL):
        wanted, value = "a number or none", float(value) if type(value) is int else value
        fits = value is None or type(value) is float
    elif isinstance(current, tuple):
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,) if isinstance(value, str) else value
        fits = isinstance(value, tuple) and _same_kind(value, current)
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


def is_true_false_or_auto(value: Any) -> bool:
    """Whether a value is one that a field of true, false or `auto` may have."""
    return type(value) is bool or value == "auto"


def _same_kind(value: tuple, current: tuple) -> bool:
    """Whether a tuple of numbers stays one, of the same length; what else a tuple holds is checked where it is used."""
    if not current or not all(isinstance(item, (int, float)) for item in current):
        return True
    return len(value) == len(current) and all(type(item) in (int, float) for item in value)
