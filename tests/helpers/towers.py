"""Runs the towers of a checkpoint; models with the same settings share what is compiled."""

import functools
import json

import jax

from mmjax.models.two_tower import TwoTower
from mmjax.parallel import partition


@functools.lru_cache(maxsize=64)
def _compiled(settings):
    settings = json.loads(settings)
    settings.pop("max_logit_scale")
    model = TwoTower(**settings)

    @jax.jit
    def run(params, images, ids):
        variables = {"params": params}
        text = model.apply(variables, ids, method="text_embedding")
        return None if images is None else model.apply(variables, images, method="image_embedding"), text

    return run


def encode(checkpoint, images, ids):
    """Embeddings of normalised images (or None, for the text tower alone) and token ids."""
    settings = checkpoint.settings | {name: dict(checkpoint.settings[name]) for name in ("image", "text")}
    if images is None:
        settings["image"] |= {"activation": "gelu"}
    # The scale's initial value is no part of the function.
    settings |= {"logit_scale_init": 1.0, "logit_bias_init": settings["logit_bias_init"] and 1.0}
    params = partition.nested(checkpoint.read(lambda _, array: array))
    return _compiled(json.dumps(settings, sort_keys=True))(params, images, ids)
