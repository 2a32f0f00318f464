"""Registries: classes and functions by the names that a config has for them.

A name of ours stands for `module:attribute`, whose module is imported when the name is used. Code of others registers
what it brings:

    @SOURCES.register("mine", ":FILE")
    class Mine: ...
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mmjax.errors import UserError, did_you_mean

Entry = TypeVar("Entry")


class Registry:
    """Classes or functions of one kind by name, in the order in which they are listed and then registered.

    Args:
      kind: what they are, for errors, such as "source".
      ours: "module:attribute" by name.
      forms: what follows a name where it is written, for errors, such as ":FILE"; nothing where it is left out.
    """

    def __init__(self, kind: str, ours: Mapping[str, str], forms: Mapping[str, str]):
        self._kind = kind
        self._entries: dict[str, Any] = dict(ours)
        self._forms = dict(forms)

    def register(self, name: str, form: str = "") -> Callable[[Entry], Entry]:
        """A decorator that registers a class or a function.

        Raises:
          UserError: the name is taken; names both modules.
        """

        def add(entry: Entry) -> Entry:
            if name in self._entries:
                raise UserError(
                    f"{self._kind} {name!r} of {_module(entry)} has the name of one of {_module(self._entries[name])};"
                    " give it another name"
                )
            self._entries[name], self._forms[name] = entry, form
            return entry

        return add

    def load(self, name: str, *, where: str) -> Any:
        """The class or function of a name.

        Args:
          name: as the config has it.
          where: the config field and its value, to begin the error with.

        Raises:
          UserError: the name is unknown; the nearest one is given, and all of them.
        """
        if name not in self._entries:
            lower = name.lower()
            near = f" (did you mean {lower!r}?)" if lower in self._entries else did_you_mean(lower, self._entries)
            raise UserError(f"{where}: unknown {self._kind} {name!r}{near}; {self.usage()}")
        entry = self._entries[name]
        if not isinstance(entry, str):
            return entry
        module, _, attribute = entry.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def form(self, name: str) -> str:
        """What follows a name where it is written."""
        return self._forms.get(name, "")

    def written(self) -> list[str]:
        """All names with what follows them."""
        return [name + self.form(name) for name in self]

    def usage(self) -> str:
        """How all names are written, as the end of an error."""
        *forms, last = self.written()
        return f"write {' or '.join(filter(None, [', '.join(forms), last]))}"

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def _module(entry: Any) -> str:
    return entry.partition(":")[0] if isinstance(entry, str) else entry.__module__
