"""Every field of a config with its value, its line of documentation, and its default where it differs."""

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmjax.config import kinds, typed_groups
from mmjax.config.field_docs import field_docs
from mmjax.config.schema import ConfigDict, base_config, parse
from mmjax.config.serialize import flatten
from mmjax.models.variants.two_tower import all_variants

_WIDTH = 120
_NO_DEFAULT = object()


class Field(NamedTuple):
    """A field of a config.

    Attributes:
      path: such as `optimizer.b1`.
      value: in the config.
      default: of `base_config`, for the size that `variant` names; `value` where there is none.
      doc: its line of documentation.
    """

    path: str
    value: Any
    default: Any
    doc: str


def fields(config: ConfigDict) -> Iterator[Field]:
    """The fields that a config has, in the order in which their classes list them.

    Raises:
      UserError: see `schema.parse`.
    """
    run, values = parse(config), flatten(config)
    variant = config.variant if config.variant in all_variants() else "B/32"
    base = base_config(variant)
    defaults = flatten(base)
    if parse(base).model.kind != run.model.kind:
        defaults = {path: value for path, value in defaults.items() if not path.startswith("model.")}
    for path, default, doc in _walk(run, ""):
        if path in values:
            default = defaults.get(path, values[path] if default is _NO_DEFAULT else default)
            yield Field(path, values[path], default, doc)


def _walk(group: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    """Path, default of its class and documentation of every field in a group; of groups by name, each."""
    if isinstance(group, dict):
        for name, inner in group.items():
            if isinstance(inner, float):
                yield typed_groups.join(path, name), 0.0, "weight of a plugin's objective"
            else:
                yield from _walk(inner, typed_groups.join(path, name))
        return
    if hasattr(group, "kind"):
        yield typed_groups.join(path, "kind"), _NO_DEFAULT, _first_line(type(group))
    docs = field_docs(type(group))
    for field in dataclasses.fields(group):
        value, where = getattr(group, field.name), typed_groups.join(path, field.name)
        if field.name == "added" and type(group) in kinds.EXTENSIBLE:
            yield from _walk(value, path)
        elif dataclasses.is_dataclass(value) or isinstance(value, dict):
            yield from _walk(value, where)
        else:
            default = _NO_DEFAULT if field.default is dataclasses.MISSING else field.default
            yield where, default, docs[field.name]


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").splitlines()[0]


def to_text(config: ConfigDict) -> str:
    """The fields as text: a line for the value, marked with * where it is not the default, and one or more for it."""
    lines = []
    for path, value, default, doc in fields(config):
        differs = value != default
        note = f"{doc} (default: {default!r})" if differs else doc
        lines.append(f"{'*' if differs else ' '} {path} = {value!r}")
        lines += textwrap.wrap(note, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
