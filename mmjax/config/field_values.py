"""Values of the plain fields of a config: which a type allows, in words too, and which types there may be."""

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union

_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text", types.NoneType: "none"}
_PLURALS = {int: "integers", float: "numbers", bool: "bools", str: "texts"}


def options_of(expected: Any) -> tuple[Any, ...]:
    """The types that a value may have, of which a union has several."""
    is_union = typing.get_origin(expected) in (Union, types.UnionType)
    return typing.get_args(expected) if is_union else (expected,)


def fitting(expected: Any, value: Any) -> Iterator[Any]:
    """The value as that type; nothing where it has another type."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        for option in arguments:
            yield from fitting(option, value)
    elif origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            yield value
    elif origin is tuple:
        if isinstance(value, (tuple, list)):
            yield from _fitting_tuple(arguments, tuple(value))
    elif isinstance(value, bool):
        if expected is bool:
            yield value
    elif expected is float:
        # An integer that no float holds is none.
        is_float = isinstance(value, float) and not math.isnan(value)
        if is_float or (isinstance(value, int) and abs(value) <= sys.float_info.max):
            yield float(value)
    elif isinstance(value, expected):
        yield value


def _fitting_tuple(items: tuple[Any, ...], value: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        return
    entries = [list(fitting(item, entry)) for item, entry in zip(items, value, strict=True)]
    if all(entries):
        yield tuple(entry[0] for entry in entries)


def describe(expected: Any) -> str:
    """What values a field may have, in words."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return _describe_options(arguments)
    if origin is Literal:
        return ", ".join(arguments[:-1]) + (" or " if arguments[:-1] else "") + str(arguments[-1])
    if origin is tuple:
        return _describe_tuple(arguments)
    return "a group of fields" if dataclasses.is_dataclass(expected) else _NAMES[expected]


def _describe_options(options: tuple[Any, ...]) -> str:
    # None comes last; three words are a list: 'true, false or auto'.
    words = [describe(option) for option in sorted(options, key=lambda option: option is types.NoneType)]
    return " or ".join(words).replace("true or false or", "true, false or")


def _describe_tuple(items: tuple[Any, ...]) -> str:
    if not items:
        return "()"
    if items[-1] is not Ellipsis:
        return f"a tuple of {len(items)} {_PLURALS[items[0]]}"
    if typing.get_origin(items[0]) is tuple:
        first, second = (describe(item) for item in typing.get_args(items[0]))
        return f"pairs in a tuple, of {first} and {second}"
    if len(options := options_of(items[0])) > 1:
        return f"a tuple of items, each {_describe_options(options)}"
    if items[0] is str:
        return "a tuple of texts, such as ('a', 'b')"
    return f"a tuple of {_PLURALS.get(items[0], 'such')}"


def type_mistake(expected: Any) -> str:
    """What is wrong with the type of a plain field, in words; "" where a config can hold it."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return next(filter(None, map(type_mistake, arguments)), "")
    if origin is Literal:
        return "" if all(isinstance(choice, str) for choice in arguments) else f"{expected} has others than texts"
    if origin is tuple:
        items = [item for item in arguments if item is not Ellipsis]
        return next(filter(None, map(type_mistake, items)), "")
    if expected in _NAMES:
        return ""
    shown = getattr(expected, "__name__", str(expected)) if origin is None else str(expected)
    return f"{shown} is no type that a config holds"
