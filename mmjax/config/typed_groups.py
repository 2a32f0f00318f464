"""Groups of a config as dataclasses: every field is there, is known, and has a value of its type.

ml_collections' lock does not see all of that: a field that is None takes any value, and a group that is assigned whole
brings any fields.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from mmjax.config import kinds
from mmjax.config.field_values import describe, fitting, options_of
from mmjax.errors import UserError, did_you_mean, validate_choice

Group = TypeVar("Group")


def parse_group(cls: type[Group], settings: Any, path: str = "", *, complete: bool = True) -> Group:
    """A group of fields as its dataclass.

    Args:
      cls: the dataclass, or a base in `kinds.KINDS`, whose `kind` says which.
      settings: its fields by name: a `ConfigDict` or a dictionary.
      path: where it stands in the config; "" for the whole.
      complete: whether all fields must be there; else those without a default, as in groups that have a kind.

    Raises:
      UserError: an unknown field, a missing one, or a value of another type; names the field, the value and the remedy.
    """
    if not _is_group(settings):
        known = [] if cls in kinds.KINDS else _fields(cls)
        such = f", with {', '.join(known)}" if known else ""
        raise UserError(f"{path or 'the config'}={settings!r} wants a group of fields{such}")
    settings = dict(settings.items())
    if cls in kinds.KINDS:
        cls, complete = kinds.class_of_kind(cls, settings, path), False
        settings.pop("kind", None)
    fields, added = _fields(cls), kinds.added_fields(cls)
    for name in settings:
        if name not in fields and name not in added:
            raise UserError(_unknown(cls, path, name))
    required = getattr(cls, "required", ())
    values = {}
    if cls in kinds.EXTENSIBLE:
        values["added"] = {
            name: _parse_value(kind, settings.get(name, {} if group_class(kind) else 0.0), join(path, name), False)
            for name, kind in added.items()
        }
    for name, field in fields.items():
        where = join(path, name)
        if name in settings:
            values[name] = _parse_value(field_types(cls)[name], settings[name], where, complete)
        elif complete or name in required or not _has_default(field):
            remedy = ", or start from base_config(), which has every field" if complete else ""
            raise UserError(f"{where} is missing; set it{remedy}")
    try:
        return cls(**values)
    except UserError:
        raise
    except ValueError as error:  # of a plugin's `__post_init__`
        raise UserError(f"{path}: {error}") from error


def to_dict(group: Any, *, unused: bool = True) -> dict[str, Any]:
    """The fields of a group by name, those with defaults too, and its `kind` where it has one.

    Groups in it are dictionaries, too. Without `unused` what plugins add is left out where it is at its defaults: a run
    that has no use for an installed plugin is not bound to it.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return to_dict(value, unused=unused)
        return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value

    kind = {"kind": group.kind} if hasattr(group, "kind") else {}
    result = kind | {name: plain(getattr(group, name)) for name in _fields(type(group))}
    if type(group) in kinds.EXTENSIBLE:
        added = group.added if unused else {name: value for name, value in group.added.items() if _is_used(group, name)}
        result |= plain(added)
    return result


def _is_used(group: Any, name: str) -> bool:
    """Whether what a plugin adds to a group is not at its default, or is what the group chooses."""
    value = group.added[name]
    return getattr(group, "name", None) == name or value != (type(value)() if dataclasses.is_dataclass(value) else 0.0)


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    return typing.get_type_hints(cls)


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field]:
    """The fields of a group as a config has them; what plugins add is not among them."""
    left_out = ("added",) if cls in kinds.EXTENSIBLE else ()
    return {field.name: field for field in dataclasses.fields(cls) if field.name not in left_out}


def defaults(cls: type[Any]) -> dict[str, Any]:
    """The fields of a group with their defaults, those that plugins add too."""
    return to_dict(parse_group(cls, to_dict(cls())))


def group_class(expected: Any) -> Any:
    """The dataclass of a field that is a group; None for a plain field."""
    options: tuple[Any, ...] = options_of(expected)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def field_type(cls: type, settings: Any, path: Sequence[str]) -> Any:
    """The type of a field within a group's settings; None where the group has no such field."""
    *parents, name = path
    group = _class_at(cls, settings, parents)
    return None if group is None else kinds.added_fields(group).get(name) or field_types(group).get(name)


def field_default(cls: type, settings: Any, path: Sequence[str]) -> Any:
    """The default of a field within a group's settings, which may lack it; `MISSING` of dataclasses without one."""
    *parents, name = path
    group = _class_at(cls, settings, parents)
    field = None if group is None else _fields(group).get(name)
    return dataclasses.MISSING if field is None else field.default


def _class_at(cls: type, settings: Any, path: Sequence[str], where: str = "model") -> Any:
    """The dataclass of a group within a group's settings, which stand at `where`; None where there is no group."""
    cls = kinds.class_of_kind(cls, settings, where) if cls in kinds.KINDS else cls
    if not path:
        return cls
    name, *inner = path
    expected, settings = kinds.added_fields(cls).get(name) or field_types(cls).get(name), settings[name]
    if typing.get_origin(expected) is Mapping and inner:  # groups by name
        expected, settings, inner = typing.get_args(expected)[1], settings[inner[0]], inner[1:]
    group = group_class(expected)
    return None if group is None or settings is None else _class_at(group, settings, inner, name)


def join(path: str, name: str) -> str:
    """The path of a field in a group."""
    return f"{path}.{name}" if path else name


def _is_group(value: Any) -> bool:
    return hasattr(value, "items")


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _unknown(cls: type, path: str, name: Any) -> str:
    known = [*(["kind"] if hasattr(cls, "kind") else []), *_fields(cls), *kinds.added_fields(cls)]
    near = did_you_mean(str(name), known)
    others = "" if near else f"; {path or 'the config'} has {', '.join(known)}"
    return f"{join(path, str(name))} is no field{near}{others}; remove it"


def _parse_value(expected: Any, value: Any, path: str, complete: bool) -> Any:
    options, group = options_of(expected), group_class(expected)
    if group is not None:
        is_none = value is None and types.NoneType in options
        return None if is_none else parse_group(group, value, path, complete=complete)
    if typing.get_origin(expected) is Mapping:
        if not _is_group(value):
            raise UserError(f"{path}={value!r} wants groups of fields by name")
        _, item = typing.get_args(expected)
        return {name: _parse_value(item, entry, join(path, name), complete) for name, entry in value.items()}
    for result in fitting(expected, value):
        return result
    raise _mismatch(expected, value, path)


def _mismatch(expected: Any, value: Any, path: str) -> UserError:
    """The error of a value that has another type."""
    options = options_of(expected)
    choices = [
        choice for option in options if typing.get_origin(option) is Literal for choice in typing.get_args(option)
    ]
    if choices and isinstance(value, str) and len(options) == 1:
        validate_choice(path, value, choices)
    shown = f"{{{', '.join(map(str, value))}}}" if _is_group(value) else repr(value)
    return UserError(f"{path}={shown} wants {describe(expected)}")
