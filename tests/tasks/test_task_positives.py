"""`data.positives`: which pairs of a batch the losses between examples take for one another's positives."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.evaluation.embedding.embedder import MeshEmbedder
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from tests.helpers import tiny_recipe

ROWS, WIDTH = 16, 8
IDS = np.array([0, 0, *range(2, 16)])  # two rows of one image
TEXTS = np.array([0, 1, 2, 1, 2, 2, *range(6, 16)])  # several rows of one text, one of them of that image


def words(numbers):
    return np.stack([numbers, np.ones_like(numbers)], 1).astype(np.uint32)


@functools.cache
def task(positives, impl="dense", shape=(1, 1, 1)):
    config = tiny_recipe.get_config()
    config.data.positives, config.loss.impl, config.loss.block_size = positives, impl, 5
    config.objectives.itc, config.objectives.sigmoid, config.model.logit_bias_init = 0.0, 1.0, -2.0
    mesh = make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))), jax.devices()[: math.prod(shape)])
    config = parse(config)
    return tasks.Task(config, tasks.make_image_spec(config), mesh=mesh), mesh


def rows():
    rng = np.random.default_rng(0)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.standard_normal((2, ROWS, WIDTH)))
    return image.astype(np.float32), text[TEXTS].astype(np.float32)


def loss_of(positives, *args):
    one, mesh = task(positives, *args)
    params = {"logit_scale": jnp.float32(1.0), "logit_bias": jnp.float32(-2.0)}
    tokens = np.stack([TEXTS + 5, np.full(ROWS, 9), np.zeros(ROWS)], 1).astype(np.int32)
    image, text = rows()
    arrays = mesh_lib.to_global(mesh, {"image": image, "text": text, "id": words(IDS), "tokens": tokens})
    run = lambda x: one.loss(params, {"image": x["image"], "text": x["text"]}, {"id": x["id"], "text": x["tokens"]})[0]
    return float(jax.jit(run)(arrays))


def expected(same):
    """The sigmoid loss in float64."""
    image, text = (x.astype(np.float64) for x in rows())
    logits = np.e * image @ text.T - 2.0
    return np.logaddexp(0, np.where(same, -logits, logits)).sum() / ROWS


BY_ID, BY_TEXT = (IDS[:, None] == IDS), (TEXTS[:, None] == TEXTS)
SAME = {"id": BY_ID, "text": BY_ID | BY_TEXT, "diagonal": np.eye(ROWS, dtype=bool)}


@pytest.mark.parametrize("positives", SAME)
def test_positives_are_what_the_config_says(positives):
    assert loss_of(positives) == pytest.approx(expected(SAME[positives]), rel=1e-5)


@pytest.mark.parametrize(("impl", "shape"), [("dense", (8, 1, 1)), ("gather", (2, 2, 2)), ("ring", (8, 1, 1))])
def test_equal_texts_are_positives_on_any_mesh_by_any_implementation(impl, shape):
    assert loss_of("text", impl, shape) == pytest.approx(expected(SAME["text"]), rel=1e-5)


@pytest.mark.parametrize("positives", SAME)
def test_the_held_out_loss_has_the_same_positives(positives):
    one, mesh = task(positives)
    tokenizer = make_tokenizer("clip", 4)  # for which upper and lower case are alike
    embedder = MeshEmbedder(one, mesh, tokenizer, ROWS)
    embedder.bind({"logit_scale": jnp.float32(1.0), "logit_bias": jnp.float32(-2.0)})
    texts = [chr(ord("a") + number).upper() if i % 2 else chr(ord("a") + number) for i, number in enumerate(TEXTS)]
    ids = embedder.pair_ids(IDS.astype(np.uint64) << np.uint64(32), texts)
    assert embedder.loss(*rows(), ids) == pytest.approx(expected(SAME[positives]), rel=1e-5)
