"""Every kind of model at tiny size, as configs and shapes."""

import contextlib
import dataclasses
import functools

import jax
import numpy as np

from mmjax import tasks
from mmjax.config import parse, recipe, schema
from mmjax.data.text import make_tokenizer
from mmjax.tasks.config_queries import text_length
from mmjax.training import checkpoint
from mmjax.training.state import TrainState

WEIGHTS = {
    "tiny": dict(itc=1.0),
    "tiny-captioner": dict(caption=1.0),
    "tiny-captioner-lstm": dict(caption=1.0),
    "tiny-blip-vqa": dict(caption=1.0),
    "tiny-blip2": dict(caption=1.0),
    "tiny-coca": dict(itc=1.0, caption=2.0),
    "tiny-albef": dict(itc=1.0, itm=1.0, mlm=1.0),
    "tiny-vilt": dict(itm=1.0, mlm=1.0),
    "tiny-qformer": dict(itc=1.0, itm=1.0, caption=1.0),
    "tiny-blip": dict(itc=1.0, itm=1.0, caption=1.0),
    "tiny-prefix_lm": dict(caption=1.0),
}
FUSIONS = ("concat", "weighted", "gated", "attention", "cross", "joint", "bottleneck", "late", "hybrid")


def config(name, **changes):
    """The config of a size, or of `fusion:KIND`; `__` stands for a dot in `changes`."""
    if name.startswith("fusion:"):
        result = recipe.load_recipe(f"fusion:kind={name.removeprefix('fusion:')}")
    else:
        result = schema.base_config(name)
        result.objectives.update(WEIGHTS.get(name, {}))
        result.precision = "float32"
        if name != "tiny":
            result.data.tokenizer = "words:shapes"
            result.data.mean_std = "siglip"
        if name == "tiny-blip-vqa":
            result.data.texts = "answers"
    with result.unlocked(), result.ignore_type():
        result.update_from_flattened_dict({path.replace("__", "."): value for path, value in changes.items()})
    return result


@functools.cache
def tokenizer(length):
    return make_tokenizer.make_tokenizer("words:shapes", length)


def task(config):
    """Its task, with what the data would tell."""
    if "encoders" in config.model or config.objectives.vqa:
        facts = tasks.read_dataset_metadata(parse(config), tasks.open_mixture(parse(config)))
    else:
        facts = tasks.DatasetMetadata()
    if "text" not in config.model:
        return tasks.Task(parse(config), None, None, None, facts)
    return tasks.Task(
        parse(config), tasks.make_image_spec(parse(config)), tokenizer(text_length(parse(config))), None, facts
    )


@functools.cache
def shapes(name):
    """Shapes of the parameters of `config(name)`."""
    return jax.eval_shape(task(config(name)).init, jax.random.key(0))


def save(random_params, config, workdir):
    """Writes what a run of two steps leaves, with random parameters; returns them."""
    model_task = task(config)
    params = random_params(jax.eval_shape(model_task.init, jax.random.key(0)), std=0.3)
    state = TrainState(np.int32(2), params, (), None, np.zeros(2, np.uint32), np.int32(-1))
    more = dict(bad_examples={}, evaluated=False, facts=dataclasses.asdict(model_task.dataset_metadata))
    meta = checkpoint.make_meta(parse(config), 16, model_task.image_spec, tasks.make_tokenizer(parse(config)), **more)
    with contextlib.closing(checkpoint.Checkpoints(workdir / "checkpoints")) as checkpoints:
        checkpoints.save(2, state, meta)
        checkpoints.wait()
    return params
