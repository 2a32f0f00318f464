"""Plugins: modules of others that register sources, tokenizers, models and more by name, see `registry`.

They are imported because somebody here names them, and before any of their names is used:

- a recipe: `base_config(plugins=("mypkg.mmjax",))`, or `config.plugins`;
- the command line: `--plugins=mypkg.mmjax`; in Python `mmjax.load(PATH, plugins=("mypkg.mmjax",))`;
- an installed distribution that has an entry point in the group `mmjax.plugins`: when a process makes or reads its
  first config (`base_config`), unless the environment says MMJAX_INSTALLED_PLUGINS=0.

What a checkpoint says of the plugins that it was made with is data, and imports nothing.
"""

import functools
import hashlib
import importlib
import json
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mmjax import plugin_calls
from mmjax.errors import UserError, did_you_mean
from mmjax.registry import REGISTRIES

GROUP = "mmjax.plugins"
SWITCH = "MMJAX_INSTALLED_PLUGINS"
_DIGITS = 12  # of a digest


@dataclass(frozen=True)
class Plugin:
    """A plugin that was imported here, or that a checkpoint was made with.

    Attributes:
      module: as `import` names it.
      distribution: that it was installed from; "" where there is none.
      version: of the distribution; where there is none, or its code may change under it (an editable installation), a
        digest of the code.
      names: that it registered, by kind.
    """

    module: str
    distribution: str
    version: str
    names: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        return f"{self.module} ({' '.join(filter(None, [self.distribution, self.version]))})"


_imported: dict[str, frozenset[tuple[str, str]]] = {}  # (kind, name) that were registered meanwhile, by module
_installed_are_imported = False


def parse_flag(text: str | None) -> tuple[str, ...]:
    """The modules that `--plugins=a.b,c` names; none where the flag is not given."""
    return () if text is None else tuple(part.strip() for part in text.split(","))


def import_plugins(modules: Any, origin: str = "plugins") -> tuple[str, ...]:
    """Imports plugins, in their order; one that was imported before is left as it is.

    Args:
      modules: their names, a tuple.
      origin: flag or field that names them; messages begin with it.

    Returns:
      The modules.

    Raises:
      UserError: one is missing (the nearest name is given), or fails (its file and line are given).
    """
    if isinstance(modules, str) or not isinstance(modules, Iterable):
        raise UserError(f"{origin}={modules!r} wants a tuple of modules, such as ('mypkg.mmjax',)")
    modules = tuple(modules)
    for module in modules:
        _import(module, f"{origin}: {module!r}")
    return modules


def import_installed() -> None:
    """Imports the plugins of installed distributions, once in a process.

    Raises:
      UserError: one is missing or fails; names its distribution, and how to go on.
    """
    global _installed_are_imported
    if _installed_are_imported or os.environ.get(SWITCH) == "0":
        return
    points = metadata.entry_points(group=GROUP)
    for point in sorted(points, key=lambda point: (point.value, point.name)):
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "a distribution without a name"
        try:
            _import(_module_of(point), f"the plugin {point.value!r} of the installed {distribution}")
        except UserError as error:
            raise UserError(f"{error}; mend or uninstall it, or set {SWITCH}=0 to go on without such") from error
    _installed_are_imported = True


def _module_of(point: metadata.EntryPoint) -> str:
    return point.value.partition(":")[0].strip()


def is_imported(module: str) -> bool:
    """Whether a plugin has been imported."""
    return module in modules()


def check_imported(modules: Sequence[str]) -> None:
    """Checks that the plugins of a config have been imported, which a config that is read from a file does not do.

    Raises:
      UserError: one has not.
    """
    if missing := [module for module in modules if not is_imported(module)]:
        raise UserError(
            f"plugins={tuple(modules)!r}: {missing[0]!r} has not been imported; name it in the recipe,"
            f" base_config(plugins={tuple(modules)!r}), or with --plugins"
        )


def imported() -> list[Plugin]:
    """The plugins that this process has imported, in that order."""
    return [Plugin(module, *_origin(module), names=_names_of(module)) for module in modules()]


def to_meta() -> list[dict[str, Any]]:
    """What a checkpoint records of the plugins that this process has imported; `read_stored` reads it."""
    return [asdict(plugin) for plugin in imported()]


def modules() -> tuple[str, ...]:
    """The modules of the plugins that this process has imported, in that order.

    Behind them are other modules that have registered something, which a recipe may import by itself.
    """
    packages = {"mmjax", *(module.partition(".")[0] for module in _imported)}
    of_plugins = frozenset().union(*_imported.values())
    others = [
        registry.module(name)
        for kind, registry in REGISTRIES.items()
        for name in registry
        if (kind, name) not in of_plugins
    ]
    others = [module for module in dict.fromkeys(others) if module in sys.modules and module != "__main__"]
    return (*_imported, *(module for module in others if module.partition(".")[0] not in packages))


def notes() -> list[str]:
    """Lines on plugins that register nothing, which may be a misspelt name."""
    return [f"note: the plugin {module!r} registers nothing" for module in _imported if not _names_of(module)]


# -- importing ---------------------------------------------------------------------------------------------------------


def _import(module: Any, where: str) -> None:
    if not isinstance(module, str) or not _is_module_name(module):
        raise UserError(f"{where} is no name of a module; write it as import does, such as mypkg.mmjax")
    if module in _imported:
        return
    before = _registered()
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"{where}: {_missing(error.name)}") from error
        raise _failure(module, where, error) from error
    except (Exception, SystemExit) as error:
        raise _failure(module, where, error) from error
    _imported[module] = _registered() - before


def _is_module_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _registered() -> frozenset[tuple[str, str]]:
    return frozenset((kind, name) for kind, registry in REGISTRIES.items() for name in registry)


def _names_of(module: str) -> dict[str, tuple[str, ...]]:
    """What was registered while a plugin was imported, or by its package before (a recipe may import that itself)."""
    package = module.partition(".")[0]
    meanwhile = _imported.get(module, frozenset())
    of_others = frozenset().union(*_imported.values()) - meanwhile
    names = {}
    for kind, registry in REGISTRIES.items():
        of_package = {name for name in registry if registry.module(name).partition(".")[0] == package != "mmjax"}
        of_package -= {name for other, name in of_others if other == kind}
        if both := of_package | {name for other, name in meanwhile if other == kind}:
            names[kind] = tuple(sorted(both))
    return names


def _missing(name: str) -> str:
    """Why there is no module of a name, with the nearest that there is."""
    parent, _, last = name.rpartition(".")
    if not parent:
        near = did_you_mean(last, (entry.name for entry in pkgutil.iter_modules()))
        return f"there is no module {name!r}{near}; install its package, or put its folder into PYTHONPATH"
    folders = getattr(sys.modules.get(parent), "__path__", None)
    near = did_you_mean(last, (entry.name for entry in pkgutil.iter_modules(folders))) if folders else ""
    return f"there is no module {last!r} in {parent}{near}"


def _failure(module: str, where: str, error: BaseException) -> UserError:
    """The error of a plugin that fails to import: its own file and line, and the exception."""
    if isinstance(error, SyntaxError) and error.filename:
        kind = type(error).__name__
        return UserError(f"{where} cannot be imported: {error.filename}, line {error.lineno}: {kind}: {error.msg}")
    line = plugin_calls.position(error, [module]) or _last_line(error)
    return UserError(f"{where} cannot be imported: {line or f'{module}: '}{plugin_calls.summary(error)}")


def _last_line(error: BaseException) -> str:
    """The line that an error came from, but for what imports modules."""
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


# -- versions ----------------------------------------------------------------------------------------------------------


@functools.cache
def _origin(module: str) -> tuple[str, str]:
    """The distribution of an imported module, and its version."""
    name = getattr(sys.modules.get(module), "__file__", None)
    if name is None:
        return "", ""
    file = Path(name)
    distribution = _distribution(module, file.resolve())
    if distribution is None:
        return "", _digest(module, file)
    version = distribution.version
    return distribution.name, f"{version}+{_digest(module, file)}" if _editable(distribution) else version


def _distribution(module: str, file: Path) -> metadata.Distribution | None:
    """The distribution that a file was installed from; None for one that merely lies on the path."""
    names = metadata.packages_distributions().get(module.partition(".")[0], ())
    for distribution in map(metadata.distribution, dict.fromkeys(names)):
        files = (path for path in distribution.files or () if path.name == file.name)
        if any(Path(str(path.locate())).resolve() == file for path in files):
            return distribution
    top = module.partition(".")[0]
    for distribution in metadata.distributions():
        folder = _editable(distribution)
        if folder and file.is_relative_to(folder) and _is_top_level(top, file.relative_to(folder).parts):
            return distribution
    return None


def _is_top_level(module: str, parts: Sequence[str]) -> bool:
    """Whether a file of a project, by its path there, is of a package that it installs, in its folder or in `src`."""
    return Path((parts[1:] if parts[0] == "src" else parts)[0]).stem == module


def _editable(distribution: metadata.Distribution) -> Path | None:
    """The folder of an editable installation; None for an ordinary one."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        is_editable = origin.get("dir_info", {}).get("editable", False)
        return Path(unquote(urlparse(origin["url"]).path)).resolve() if is_editable else None
    except (ValueError, KeyError, AttributeError):
        return None


def _digest(module: str, file: Path) -> str:
    """A digest of a module's code: of all files of its package, or of its own where it is in none."""
    in_package = "." in module or file.stem == "__init__"
    files = sorted(file.parent.rglob("*.py")) if in_package else [file]
    state = hashlib.sha256()
    for path in files if file in files else [file]:
        content = path.read_bytes() if path.is_file() else b""
        state.update(f"{path.relative_to(file.parent)}:{len(content)}:".encode() + content)
    return f"sha256.{state.hexdigest()[:_DIGITS]}"


# -- checkpoints -------------------------------------------------------------------------------------------------------


def read_stored(records: Any, origin: str) -> list[Plugin]:
    """The plugins that a checkpoint was made with, from its metadata; none in one from before there were any.

    Args:
      records: as `to_meta` writes them.
      origin: the checkpoint; messages begin with it.

    Raises:
      UserError: they are not as they are written.
    """
    try:
        plugins = [Plugin(**record) for record in records]
        if all(_is_record(plugin) for plugin in plugins):
            return plugins
    except (TypeError, AttributeError):
        pass
    raise UserError(f"{origin}: what its metadata says of plugins cannot be read; it is damaged, or not mmjax's")


def _is_record(plugin: Plugin) -> bool:
    words = [plugin.distribution, plugin.version, *plugin.names]
    words += [name for names in plugin.names.values() for name in names]
    return _is_module_name(plugin.module) and all(re.fullmatch(r"[\w.+! -]*", word) for word in words)


def compare_stored(plugins: Sequence[Plugin], origin: str) -> list[str]:
    """Compares the plugins that a checkpoint was made with to those that are imported here; nothing is imported.

    Names of those that are not imported are known from then on: who uses one is told which plugin it needs.

    Args:
      plugins: of the checkpoint.
      origin: the checkpoint.

    Returns:
      Notes on other versions.
    """
    notes = []
    for plugin in plugins:
        if is_imported(plugin.module):
            _, version = _origin(plugin.module)
            if version != plugin.version:
                notes.append(f"note: {origin} was made with the plugin {plugin}, which is {version} here")
            continue
        for kind, names in plugin.names.items():
            for name in names if kind in REGISTRIES else ():
                remedy = f"of the plugin {plugin}, with which {origin} was made; {_remedy(plugin.module)}"
                REGISTRIES[kind].note_absent(name, remedy)
    return notes


def version_hint(plugins: Sequence[Plugin]) -> str:
    """What to add to a mistake in a stored config: the plugins that it was made with and that are not so here."""
    absent = [plugin for plugin in plugins if not is_imported(plugin.module)]
    if absent:
        return f"; it was made with {', '.join(map(str, absent))}: {_remedy(*(plugin.module for plugin in absent))}"
    here = {plugin.module: plugin.version for plugin in imported()}
    changed = [plugin for plugin in plugins if here[plugin.module] != plugin.version]
    if not changed:
        return ""
    versions = ", ".join(f"{plugin}, which is {here[plugin.module]} here" for plugin in changed)
    return f"; it was made with {versions}: install that version, or have the plugin declare what it `renamed`"


def _remedy(*modules: str) -> str:
    return f"give --plugins={','.join(modules)}, in Python plugins={modules!r}"
