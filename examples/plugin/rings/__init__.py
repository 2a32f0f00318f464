"""Rings: a plugin of mmjax that brings one of everything.

mmjax imports this module where a recipe, `--plugins=rings` or the entry point in pyproject.toml names it; what its
modules register can then be named in a config.
"""

from rings import data, evaluation, losses, model, training

__all__ = ["data", "evaluation", "losses", "model", "training"]
