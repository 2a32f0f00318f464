"""Configs of suites of evaluations: made by a Python file, changed by flags, parsed as a run's is."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax import plugin_imports
from mmjax.config import overrides as overrides_lib
from mmjax.config import recipe
from mmjax.config.schema import ConfigDict
from mmjax.config.typed_groups import defaults, parse_group, to_dict
from mmjax.errors import UserError
from mmjax.evaluation.config import DatasetConfig, SuiteConfig


def suite_config(
    root: str = SuiteConfig.root, collection: str = SuiteConfig.collection, plugins: Sequence[str] = ()
) -> ConfigDict:
    """An empty suite with every field, to be filled by a config file.

    Args:
      root: folder or URL that stands for {root} in sources.
      collection: which datasets to run: a collection, or names of datasets and collections joined by "+".
      plugins: modules of others that register what the suite names; they are imported, see `plugin_imports`.
    """
    modules = plugin_imports.import_plugins(plugins)
    config = ConfigDict(defaults(SuiteConfig) | {"root": root, "collection": collection, "plugins": modules})
    config.datasets = ConfigDict(sort_keys=False)  # they run in this order
    config.collections = ConfigDict(sort_keys=False)
    return config


def dataset(source: str, *tasks: str, **fields: Any) -> ConfigDict:
    """An entry of a suite.

    Args:
      source: as `data.eval` has it; {root} stands for the suite's.
      *tasks: what is evaluated on it; zero-shot classification by default.
      **fields: the others of `evaluation.config.DatasetConfig`.

    Raises:
      UserError: an unknown field, or a value of another type.
    """
    fields |= {"source": source} | ({"tasks": tasks} if tasks else {})
    return ConfigDict(dataclasses.asdict(parse_group(DatasetConfig, fields, f"dataset({source!r})", complete=False)))


def parse_suite(config: ConfigDict | Mapping[str, Any], origin: str = "") -> SuiteConfig:
    """The typed tree of a suite.

    Args:
      config: as its file fills it.
      origin: of the suite; messages begin with it.

    Raises:
      UserError: an unknown field, or a value of another type; names the field, the value and the remedy.
    """
    try:
        return parse_group(SuiteConfig, config, complete=False)
    except UserError as error:
        if not origin:
            raise
        raise UserError(f"{origin}: {error}") from None


def load_suite(
    spec: str, overrides: Sequence[tuple[str, str]] = (), plugins: Sequence[str] = ()
) -> tuple[SuiteConfig, list[tuple[str, str]]]:
    """Runs a suite's file.

    Args:
      spec: as `recipe.load_recipe` takes it.
      overrides: of fields of the suite or of the model's config.
      plugins: imported before the file is run.

    Returns:
      The suite with its overrides, and the overrides of the model's config.

    Raises:
      UserError: no such file, or it describes no suite; or a plugin is missing or fails.
    """
    config, origin = recipe.run_file(spec, plugins), f"--config={spec}"
    missing = [name for name in to_dict(SuiteConfig()) if name not in config]
    if missing:
        raise UserError(
            f"{origin}: this is no evaluation suite (it has no field {missing[0]!r}); start from"
            " mmjax.config.suite_config()"
        )
    parse_suite(config, origin)
    config.lock()
    of_suite = [(path, text) for path, text in overrides if path.split(".")[0] in config]
    overrides_lib.apply(config, of_suite, cls=SuiteConfig)
    return parse_suite(config), [override for override in overrides if override not in of_suite]
