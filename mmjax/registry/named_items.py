"""A registry: classes or functions of one kind by name, ours and those of others; `mmjax.registry` has them all.

A name of ours stands for `module:attribute`, whose module is imported when the name is used. Code of others registers
what it brings; `mmjax.plugin_imports` says which modules that are, and when they are imported:

    from mmjax.plugin import sources

    @sources.register("mine", ":FILE")
    class Mine: ...
"""

import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from mmjax.errors import UserError, did_you_mean

Item = TypeVar("Item")

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FORM = re.compile(r"|:\S+|\[/\S+\]")


@dataclasses.dataclass(frozen=True)
class _Entry:
    """What a name stands for.

    Attributes:
      target: a class or function; of ours `module:attribute`.
      form: what follows the name where it is written.
      config: the dataclass of its fields; of ours `module:attribute`; None where it has none.
      module, line: that registered it: its name; its code and the line there, () of ours.
    """

    target: Any
    form: str
    config: type | str | None
    module: str
    line: tuple[Any, ...] = ()


class Registry:
    """Classes or functions of one kind by name, in the order in which they are listed and registered.

    Args:
      kind: what they are, for errors, such as "source".
      ours: "module:attribute" by name.
      forms: what follows a name where it is written, such as ":FILE"; nothing where it is left out.
      configs: "module:attribute" of the dataclasses of their fields, by name.
      fields: whether those of others have such a dataclass: `never`, `maybe` or `always`.
    """

    def __init__(
        self,
        kind: str,
        ours: Mapping[str, str],
        forms: Mapping[str, str] | None = None,
        configs: Mapping[str, str] | None = None,
        fields: Literal["never", "maybe", "always"] = "maybe",
    ):
        self._has_form, self._fields = forms is not None, fields
        forms, configs = forms or {}, configs or {}
        self.kind = kind
        self._entries = {
            name: _Entry(target, forms.get(name, ""), configs.get(name), target.partition(":")[0])
            for name, target in ours.items()
        }
        self._ours = frozenset(ours)
        self._absent: dict[str, str] = {}

    def register(self, name: str, form: str = "", *, config: type | None = None) -> Callable[[Item], Item]:
        """A decorator that registers a class or a function.

        What a module that runs again registers (a recipe, `importlib.reload`) takes the place of what it had before.

        Args:
          name: lower-case letters, digits and underscores.
          form: what follows the name where it is written: ":FILE", "[/SPLIT]", or nothing.
          config: the frozen dataclass of its fields, where it has any.

        Raises:
          UserError: the name is taken (names both modules), or is none.
        """
        caller = sys._getframe(1)
        module, line = caller.f_globals.get("__name__", ""), (caller.f_code, caller.f_lineno)
        where = f"{self.kind} {name!r} of {module}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{where}: a name has lower-case letters, digits and _, and begins with a letter")
        if not isinstance(form, str) or not _FORM.fullmatch(form):
            call = "" if isinstance(form, str) else f"; write register({name!r})(...) of what is registered"
            raise UserError(f"{where}: form={form!r} must be ':SOMETHING', '[/SOMETHING]' or ''{call}")
        if (form and not self._has_form) or (config is not None and self._fields == "never"):
            raise UserError(f"{where}: {'form' if form else 'config'} means nothing for {self.kind}s; leave it out")
        if config is None and self._fields == "always":
            raise UserError(f"{where}: config is missing; give the dataclass of its fields, which has kind = {name!r}")
        if config is not None and not (isinstance(config, type) and dataclasses.is_dataclass(config)):
            raise UserError(f"{where}: config={config!r} must be a dataclass, such as @dataclass(frozen=True)")

        def add(target: Item) -> Item:
            known = self._entries.get(name)
            if known is not None and known.module != module:
                raise UserError(f"{where} has the name of one of {known.module}; give it another name")
            # A module that runs anew has other code.
            is_again = known is not None and known.line[:1] == line[:1] and known.line != line
            if known is not None and (is_again or _qualname(known.target) != _qualname(target)):
                both = f"{_qualname(known.target)} and {_qualname(target)}"
                raise UserError(f"{where} is registered twice, for {both}; give one of them another name")
            self._entries[name] = _Entry(target, form, config, module, line)
            return target

        return add

    def load(self, name: str, *, where: str) -> Any:
        """The class or function of a name.

        Args:
          where: the config field and its value, to begin the error with.

        Raises:
          UserError: the name is unknown; the nearest one is given, and all of them.
        """
        return _resolve(self._entry(name, where).target)

    def config_class(self, name: str, *, where: str) -> Any:
        """The dataclass of a name's fields, None where it has none; arguments and errors as of `load`."""
        return _resolve(self._entry(name, where).config)

    def _entry(self, name: str, where: str) -> _Entry:
        if name not in self:
            raise self.unknown(name, where=where)
        return self._entries[name]

    def validate_choice(self, field: str, name: Any, value: Any = None) -> str:
        """Returns `name` where it is registered.

        Args:
          field: of the config, to begin the error with.
          value: of the field, where the name is a part of it.

        Raises:
          UserError: it is not; the nearest one is given, and all of them.
        """
        if name in self:
            return name
        where = f"{field}={(name if value is None else value)!r}"
        if isinstance(name, str) and name in self._absent:
            raise self.unknown(name, where=where)
        raise UserError(f"{where} is not known{self._near(name)}; choose one of: {', '.join(self.written())}")

    def unknown(self, name: Any, *, where: str) -> UserError:
        """The error of a name that is not registered; arguments as of `load`."""
        if name in self._absent:
            return UserError(f"{where}: {self.kind} {name!r} is {self._absent[name]}")
        return UserError(f"{where}: unknown {self.kind} {name!r}{self._near(name)}; {self.usage()}")

    def _near(self, name: Any) -> str:
        lower = str(name).lower()
        return f" (did you mean {lower!r}?)" if lower in self else did_you_mean(lower, self)

    def note_absent(self, name: str, remedy: str) -> None:
        """Remembers who would register a name; what the error of a name that is not registered says instead."""
        self._absent[name] = remedy

    def absent(self) -> dict[str, str]:
        """Who would register names that nobody here has registered, as `note_absent` remembers it."""
        return {name: remedy for name, remedy in self._absent.items() if name not in self}

    def form(self, name: str) -> str:
        """What follows a name where it is written."""
        return self._entries[name].form if name in self else ""

    def added(self) -> list[str]:
        """The names that are not ours."""
        return [name for name in self._entries if name not in self._ours]

    def module(self, name: str) -> str:
        """The module that registered a name."""
        return self._entries[name].module

    def describe(self, name: str) -> str:
        """A name with its kind and the module that registered it, as messages begin with."""
        return f"{self.kind} {name!r} of {self.module(name)}"

    def written(self) -> list[str]:
        """All names with what follows them."""
        return [name + entry.form for name, entry in self._entries.items()]

    def usage(self) -> str:
        """How all names are written, as the end of an error."""
        return f"write {' or '.join(filter(None, [', '.join(self.written()[:-1]), self.written()[-1]]))}"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def _qualname(target: Any) -> str:
    """The name of a class or function; of another object its class's."""
    return target if isinstance(target, str) else getattr(target, "__qualname__", type(target).__qualname__)


def _resolve(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
