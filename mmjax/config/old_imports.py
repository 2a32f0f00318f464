"""Modules that recipes written for mmjax 0.1 import, under the names that they had."""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator

# Old module: where its names are now.
_MODULES = {
    "mmjax.recipes": "mmjax.config.toy_presets",
    "mmjax.data.sensors": "mmjax.data.sources.sensors",
    "mmjax.evaluation.jobs": "mmjax.evaluation.suite.jobs",
}
_NAMES = {("mmjax.recipes", "on_scenes"): "apply_toy_scene_recipe", ("mmjax.recipes", "for_cpu"): "cpu_friendly"}


@contextlib.contextmanager
def importable() -> Iterator[None]:
    """Lets a recipe import what it needs by the names of mmjax 0.1, as long as the context lasts."""
    sys.modules.update({old: _stand_in(old) for old in _MODULES})
    try:
        yield
    finally:
        for old in _MODULES:
            del sys.modules[old]


def _stand_in(old: str) -> types.ModuleType:
    """A module whose names are looked up where they are now; nothing is imported before."""
    module = types.ModuleType(old, f"Now {_MODULES[old]}.")
    module.__getattr__ = lambda name: getattr(importlib.import_module(_MODULES[old]), _NAMES.get((old, name), name))
    return module
