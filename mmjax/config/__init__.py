"""Configs: their fields and defaults, recipes by name, overrides, stored configs."""

from mmjax.config.recipe import load_recipe, parse_arg
from mmjax.config.schema import ConfigDict, base_config
from mmjax.config.serialize import from_json, to_json

__all__ = ["ConfigDict", "base_config", "from_json", "load_recipe", "parse_arg", "to_json"]
