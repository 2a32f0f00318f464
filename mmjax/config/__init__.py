"""Configs: their fields and defaults, recipes by name, overrides, stored configs."""

from mmjax.config.recipe import load_recipe, parse_arg
from mmjax.config.schema import ConfigDict, RunConfig, base_config, parse, set_group
from mmjax.config.serialize import from_json, to_json
from mmjax.config.suite_recipe import dataset, suite_config
from mmjax.config.typed_groups import to_dict

__all__ = [
    "ConfigDict",
    "RunConfig",
    "base_config",
    "dataset",
    "from_json",
    "load_recipe",
    "parse",
    "parse_arg",
    "set_group",
    "suite_config",
    "to_dict",
    "to_json",
]
