"""Formats by config.json: which fields are read, with bounds on their values, and our settings of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError

Settings = dict[str, Any]

# Far beyond any size: a damaged config is refused before memory is taken for its model.
LARGEST = 10**7
LARGEST_TABLE = 10**9  # numbers in a table of tokens or positions, beyond any model's
_MOST_LAYERS = 1_000
_LAYERS = ("layers", "n_layer", "depth")  # how fields end that count layers
_ONE_OR_SEVERAL = ("image_size", "patch_size", "eos_token_id")  # fields that hold a number, or a list


@dataclasses.dataclass(frozen=True)
class Unset:
    """The default of a field that a config may leave out or null, and that is then None.

    Attributes:
      example: a value of its type.
    """

    example: Any


class Raw:
    """The default of a field that `from_config` checks itself; None where a config has none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigFormat:
    """A kind of model there, by its config.json.

    Attributes:
      name: in messages.
      defaults: of the fields of config.json that are read; groups of fields are mappings.
      fixed: values that such fields must have, and have where they are left out; groups of fields are mappings.
      settings: values that our settings must have, by slot.
      from_config: fields -> settings; raises ValueError, which names the field, where mmjax has no such model.
      to_config: settings -> fields; likewise where the format has none.
    """

    name: str
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    settings: Mapping[str, Any]
    from_config: Callable[[Mapping[str, Any]], Settings]
    to_config: Callable[[Settings], dict[str, Any]]


def read_settings(form: ConfigFormat, config: Mapping[str, Any], path: Path) -> Settings:
    """Our settings, from the content of config.json.

    Raises:
      UserError: a field has a value that no model has, or one that mmjax does not have.
    """
    fields = _read_fields(form.defaults, form.fixed, config, path, "")
    try:
        return form.from_config(fields)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _read_fields(
    defaults: Mapping[str, Any], fixed: Mapping[str, Any], config: Mapping[str, Any], path: Path, group: str
) -> dict[str, Any]:
    """The fields of `defaults` with what a config says of them; `group` is what their names begin with."""
    for field, value in fixed.items():
        if not isinstance(value, Mapping) and config.get(field, value) != value:
            raise UserError(f"{path}: {group}{field}={config[field]!r} is not read; mmjax has {value!r}")
    fields: dict[str, Any] = {}
    for name in dict.fromkeys([*defaults, *(name for name, value in fixed.items() if isinstance(value, Mapping))]):
        default, value = defaults.get(name, {}), config.get(name)
        if isinstance(default, Raw):
            fields[name] = value
            continue
        if isinstance(default, Mapping):
            if value is not None and not isinstance(value, Mapping):
                raise UserError(f"{path}: {group}{name}={str(value)[:60]!r}: wants a group of fields")
            fields[name] = _read_fields(default, fixed.get(name, {}), value or {}, path, f"{group}{name}.")
            continue
        example = default.example if isinstance(default, Unset) else default
        if value is not None:
            _check_value(f"{path}: {group}{name}", name, value, example)
        elif not isinstance(default, Unset):
            value = default
        fields[name] = value
    return fields


def _check_value(label: str, name: str, value: Any, example: Any) -> None:
    """Checks that a field of config.json is of the right type and size.

    Raises:
      UserError: it is not.
    """
    label = f"{label}={str(value)[:60] if isinstance(value, list | dict) else repr(value)}"
    several = isinstance(example, list)
    if several != isinstance(value, list) and name not in _ONE_OR_SEVERAL or several and len(value) != len(example):
        raise UserError(f"{label}: wants a value such as {example!r}")
    item = example[0] if several else example
    numbers: list[Any] = value if isinstance(value, list) else [value]
    for number in numbers:
        if type(number) is not type(item) and not (isinstance(item, float) and number in (0, 1)):
            raise UserError(f"{label}: wants a value such as {example!r}")
        least, most = int(not name.endswith("_id")), _MOST_LAYERS if name.endswith(_LAYERS) else LARGEST
        if type(number) is int and type(item) is int and not least <= number <= most:
            raise UserError(f"{label} is out of range: it must be {least} to {most}")
        if isinstance(item, float) and not 0 < number < 1:
            raise UserError(f"{label} must be greater than 0 and less than 1")


def differences(form: ConfigFormat, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The fields in which settings are not those that a format has: (path, value, its value)."""
    return _differences(form.settings, settings, "")


def _differences(wanted: Mapping[str, Any], settings: Mapping[str, Any], group: str) -> Iterator[tuple[str, Any, Any]]:
    for field, value in wanted.items():
        actual = settings.get(field) if isinstance(settings, Mapping) else None
        if isinstance(value, Mapping):
            yield from _differences(value, actual or {}, f"{group}{field}.")
        elif actual != value:
            yield f"{group}{field}", actual, value


def one_size(field: str, value: Any) -> int:
    """The side of a square that is one number or a pair of equal ones.

    Raises:
      ValueError: it is none.
    """
    sides = value if isinstance(value, list | tuple) else [value]
    if len(set(sides)) != 1:
        raise ValueError(f"{field}={value} is not one number; mmjax takes squares")
    return sides[0]
