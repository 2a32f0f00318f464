"""Softmax and sigmoid loss against float64 brute force, with and without shared ids."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives.contrastive import pair_matrix, sigmoid_loss, softmax_loss
from mmjax.parallel.config import MeshConfig

BATCH, WIDTH = 7, 5
# Rows 0, 2 and 5 show one thing, rows 3 and 6 another. Ids are 64 bits: rows 1 and 4 share only their low word with 0.
SHARED = np.array([[9, 1], [9, 2], [9, 1], [4, 0], [8, 1], [9, 1], [4, 0]], np.uint32)
UNIQUE = np.stack([np.arange(BATCH), np.zeros(BATCH)], axis=1).astype(np.uint32)


@pytest.fixture(scope="module", params=["random", "aligned"])
def rows(request):
    """Unit rows; aligned ones are pairs of almost equal vectors, so that logits of a good model are met."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((BATCH, WIDTH))
    text = (
        rng.standard_normal((BATCH, WIDTH))
        if request.param == "random"
        else image + 0.1 * rng.standard_normal(image.shape)
    )
    return [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (image, text)]


def partners(ids):
    return [[j for j in range(BATCH) if i == j or (ids is not None and (ids[i] == ids[j]).all())] for i in range(BATCH)]


def log_softmax(x):
    return x - x.max() - math.log(np.exp(x - x.max()).sum())


def cosine(image, text):
    """Of several vectors of an image, the one most similar to the text."""
    return max(vector @ text for vector in np.atleast_2d(image))


def softmax_reference(image, text, scale, ids, smoothing=0.0):
    logits = scale * np.array([[cosine(x, y) for y in text] for x in image])
    total = 0.0
    for matrix in (logits, logits.T):
        for i, positives in enumerate(partners(ids)):
            log_p = log_softmax(matrix[i])
            among = (1 - smoothing) * np.mean([log_p[p] for p in positives])
            total -= (among + smoothing * np.mean(log_p)) / BATCH / 2
    return total


def sigmoid_reference(image, text, scale, bias, ids):
    total = 0.0
    for i, positives in enumerate(partners(ids)):
        for j in range(BATCH):
            z = (1 if j in positives else -1) * (scale * cosine(image[i], text[j]) + bias)
            total += (math.log1p(math.exp(-z)) if z > 0 else -z + math.log1p(math.exp(z))) / BATCH
    return total


def directional(function, arguments, which, direction, step=1e-6):
    up, down = ([x.copy() if isinstance(x, np.ndarray) else x for x in arguments] for _ in range(2))
    up[which] = up[which] + step * direction
    down[which] = down[which] - step * direction
    return (function(*up) - function(*down)) / (2 * step)


def check(loss, reference, arguments, ids):
    """Value and gradients of every argument along random directions."""
    exact = [np.asarray(x, np.float64) if isinstance(x, np.ndarray) else x for x in arguments]
    arrays = [jnp.asarray(x, jnp.float32) for x in arguments]
    numbers = tuple(range(len(arrays)))
    run = jax.jit(
        jax.value_and_grad(lambda *x: loss(*x, ids=None if ids is None else jnp.asarray(ids))[0], argnums=numbers)
    )
    value, gradients = run(*arrays)
    expected = reference(*exact, ids)
    assert float(value) == pytest.approx(expected, rel=2e-5, abs=2e-6)
    rng = np.random.default_rng(1)
    for which, gradient in enumerate(gradients):
        for _ in range(3):
            direction = rng.standard_normal(np.shape(gradient))
            slope = directional(lambda *x: reference(*x, ids), exact, which, direction)
            assert np.vdot(gradient, direction) == pytest.approx(slope, rel=1e-4, abs=2e-5), f"argument {which}"


IDS = pytest.mark.parametrize("ids", [None, UNIQUE, SHARED], ids=["none", "unique", "shared"])
SCALES = pytest.mark.parametrize("scale", [1 / 0.07, 100.0])  # the first and the largest allowed


@IDS
@SCALES
def test_softmax(rows, scale, ids):
    check(softmax_loss, softmax_reference, [*rows, scale], ids)


@IDS
@SCALES
def test_sigmoid(rows, scale, ids):
    check(sigmoid_loss, sigmoid_reference, [*rows, scale, -10.0], ids)


@pytest.fixture(scope="module")
def queries():
    """Three vectors an image, and texts."""
    rng = np.random.default_rng(4)
    rows = [rng.standard_normal(shape) for shape in ((BATCH, 3, WIDTH), (BATCH, WIDTH))]
    return [(x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32) for x in rows]


@pytest.mark.parametrize("smoothing", [0.1, pytest.param(0.0, marks=pytest.mark.full)])
@IDS
def test_softmax_of_several_vectors_an_image(queries, smoothing, ids):
    loss = functools.partial(softmax_loss, label_smoothing=smoothing)
    check(loss, functools.partial(softmax_reference, smoothing=smoothing), [*queries, 10.0], ids)


@pytest.mark.full
@IDS
def test_sigmoid_of_several_vectors_an_image(queries, ids):
    check(sigmoid_loss, sigmoid_reference, [*queries, 10.0, -10.0], ids)


@pytest.mark.full
@IDS
def test_label_smoothing(rows, ids):
    loss = functools.partial(softmax_loss, label_smoothing=0.1)
    check(loss, functools.partial(softmax_reference, smoothing=0.1), [*rows, 10.0], ids)


@pytest.mark.parametrize("impl", ["gather", "ring"])
def test_what_needs_the_whole_matrix(queries, rows, impl):
    with pytest.raises(ValueError, match=f"3 vectors an image need impl='dense', not '{impl}'"):
        softmax_loss(*map(jnp.asarray, queries), jnp.float32(1.0), impl=impl)
    with pytest.raises(ValueError, match=f"label_smoothing=0.1 needs impl='dense', not '{impl}'"):
        softmax_loss(*map(jnp.asarray, rows), jnp.float32(1.0), impl=impl, label_smoothing=0.1)
    with pytest.raises(ValueError, match="label_smoothing=1.0 must be at least 0 and below 1"):
        softmax_loss(*map(jnp.asarray, rows), jnp.float32(1.0), label_smoothing=1.0)


def test_pairs_compare_both_words():
    expected = [[j in row for j in range(BATCH)] for row in partners(SHARED)]
    np.testing.assert_array_equal(pair_matrix(len(SHARED), jnp.asarray(SHARED)), expected)


def test_shared_ids_change_the_loss(rows):
    image, text = map(jnp.asarray, rows)
    scale = jnp.float32(10.0)
    assert float(softmax_loss(image, text, scale)[0]) != float(softmax_loss(image, text, scale, jnp.asarray(SHARED))[0])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_uniform_logits(scale):
    same = jnp.tile(jnp.eye(8)[:1], (8, 1))
    assert float(softmax_loss(same, same, jnp.float32(scale))[0]) == pytest.approx(math.log(8), abs=1e-5)


@pytest.mark.parametrize("scale", [1 / 0.07, 5.0])
def test_orthonormal_pairs(scale):
    loss, metrics = softmax_loss(jnp.eye(8), jnp.eye(8), jnp.float32(scale))
    assert float(loss) == pytest.approx(math.log1p(7 * math.exp(-scale)), abs=1e-6)
    assert float(metrics["accuracy"]) == 1.0


def test_sigmoid_at_initialisation():
    """No similarity, scale 10 and bias -10: softplus(10) + 7 softplus(-10)."""
    image, text = jnp.eye(16)[:8], jnp.eye(16)[8:]
    loss, _ = sigmoid_loss(image, text, jnp.float32(10.0), jnp.float32(-10.0))
    assert float(loss) == pytest.approx(10.00036, abs=1e-5)


def test_bfloat16_embeddings_are_compared_in_float32(rows):
    half = [jnp.asarray(x, jnp.bfloat16) for x in rows]
    single = [x.astype(jnp.float32) for x in half]
    assert float(softmax_loss(*half, jnp.float32(100.0))[0]) == float(softmax_loss(*single, jnp.float32(100.0))[0])


@IDS
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_accuracy(kind, ids):
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(5):
        image, text = (rng.standard_normal((BATCH, 3)).astype(np.float32) for _ in range(2))
        logits = image.astype(np.float64) @ text.T.astype(np.float64)
        expected = np.mean([[m[i].argmax() in row for i, row in enumerate(partners(ids))] for m in (logits, logits.T)])
        arguments = [jnp.asarray(image), jnp.asarray(text), jnp.float32(2.0)]
        arguments += [jnp.float32(-1.0)] if kind == "sigmoid" else []
        loss = softmax_loss if kind == "softmax" else sigmoid_loss
        _, metrics = loss(*arguments, ids=None if ids is None else jnp.asarray(ids))
        assert float(metrics["accuracy"]) == pytest.approx(expected, abs=1e-6)
        hits.append(expected)
    assert 0 < np.mean(hits) < 1


@pytest.mark.parametrize("shared", [False, True])
def test_on_a_mesh_the_value_is_that_of_one_device(shared):
    from mmjax.parallel import mesh as mesh_lib
    from mmjax.parallel.make_mesh import make_mesh

    mesh = make_mesh(MeshConfig(data=4, fsdp=2, tensor=1))
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((16, 4)).astype(np.float32) for _ in range(2)]
    rows = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows]
    ids = np.stack([np.arange(16) % 5, np.zeros(16)], axis=1).astype(np.uint32) if shared else None
    run = jax.jit(jax.value_and_grad(lambda a, b, ids: softmax_loss(a, b, jnp.float32(100.0), ids)[0], argnums=(0, 1)))
    one = run(*rows, ids)
    sharding = mesh_lib.batch_sharding(mesh)
    many = run(*(None if x is None else jax.device_put(x, sharding) for x in (*rows, ids)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), many, one)
