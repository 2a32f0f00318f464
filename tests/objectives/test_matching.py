"""Hard negatives: drawn from the softmax, never of the same id, alike on any mesh; and the two-way loss."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mmjax.objectives import matching
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh

BATCH, WIDTH = 48, 8
FULL = pytest.mark.full


@functools.cache
def mesh_of(shape):
    return make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))), jax.devices()[: math.prod(shape)])


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def example(batch=BATCH, kinds=17, seed=0):
    rng = np.random.default_rng(seed)
    image, text = (unit(rng.standard_normal((batch, WIDTH))) for _ in range(2))
    # Some ids differ in one of their two words only.
    ids = np.stack([np.arange(batch) % kinds, np.arange(batch) % 2], 1).astype(np.uint32)
    return image, text, ids


def keys_of(batch, seed=0):
    return jax.random.split(jax.random.key(seed), batch)


@functools.cache
def drawing(shape=None, **options):
    """Compiled: `(image, text, scale, ids, keys) -> HardNegatives`."""
    mesh = None if shape is None else mesh_of(shape)
    return jax.jit(functools.partial(matching.hard_negatives, mesh=mesh, **options))


def draw(image, text, scale, ids, seed=0, shape=None, **options):
    result = drawing(shape, **options)(image, text, np.float32(scale), ids, keys_of(len(text), seed))
    return jax.tree.map(np.asarray, result)


def many_draws(image, text, scale, ids, times):
    """[times, B] of each kind."""
    keys = jax.random.split(jax.random.key(7), (times, len(image)))
    run = jax.vmap(lambda keys: matching.hard_negatives(image, text, scale, ids, keys))
    return jax.tree.map(np.asarray, jax.jit(run)(keys))


def test_draws_follow_the_softmax_over_other_ids():
    """Chi-square for each row and direction, and for the independence of rows and directions."""
    batch, times, scale = 9, 4000, 3.0
    image, text, _ = example(batch)
    ids = np.array([[0, 0], [1, 0], [0, 0], [0, 1], [2, 0], [3, 0], [0, 0], [4, 0], [1, 0]], np.uint32)
    result = many_draws(*map(jnp.asarray, (image, text, np.float32(scale), ids)), times)
    logits = scale * image.astype(np.float64) @ text.T
    p_values = []
    for draws, matrix in ((result.text_for_image, logits), (result.image_for_text, logits.T)):
        for i in range(batch):
            others = (ids != ids[i]).any(1)
            counts = np.bincount(draws[:, i], minlength=batch)
            assert not counts[~others].any()
            expected = scipy.special.softmax(matrix[i][others]) * times
            p_values.append(scipy.stats.chisquare(counts[others], expected).pvalue)
    assert result.has_negative.all()
    # 18 independent p-values: the least is above 0.001 with a probability of 0.98, and they are uniform.
    assert min(p_values) > 1e-3
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-2
    for a, b in [
        (result.text_for_image[:, 0], result.image_for_text[:, 0]),
        (result.text_for_image[:, 0], result.text_for_image[:, 1]),
        (result.text_for_image[:, 4], result.image_for_text[:, 5]),
    ]:
        table = np.zeros((batch, batch))
        np.add.at(table, (a, b), 1)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_a_sharp_softmax_takes_the_hardest_negative():
    image, text, ids = example()
    result = draw(image, text, 1e5, ids)
    cosines = np.where((ids[:, None] == ids[None]).all(-1), -np.inf, image.astype(np.float64) @ text.T)
    np.testing.assert_array_equal(result.text_for_image, cosines.argmax(1))
    np.testing.assert_array_equal(result.image_for_text, cosines.argmax(0))


@pytest.mark.parametrize(
    ("shape", "block_size"),
    [
        ((2, 2, 2), 5),
        pytest.param((8, 1, 1), 64, marks=FULL),
        pytest.param((8, 1, 1), 4, marks=FULL),
        pytest.param((1, 2, 4), 7, marks=FULL),
        pytest.param((1, 1, 8), 64, marks=FULL),
        pytest.param((4, 1, 1), 11, marks=FULL),
        pytest.param(None, 7, marks=FULL),
    ],
)
def test_the_draw_is_that_of_one_device(shape, block_size):
    image, text, ids = example()
    for seed in range(3):
        expected = draw(image, text, 10.0, ids, seed)
        result = draw(image, text, 10.0, ids, seed, shape, block_size=block_size)
        jax.tree.map(np.testing.assert_array_equal, result, expected)
        assert result.has_negative.all()
        for other in result[:2]:
            assert (ids[other] != ids).any(1).all()


@FULL
def test_rows_that_do_not_divide_over_tensor():
    """Four rows a `data` x `fsdp` place and three devices in each."""
    image, text, ids = example(8)
    expected, result = (draw(image, text, 5.0, ids, 0, shape) for shape in (None, (2, 1, 3)))
    jax.tree.map(np.testing.assert_array_equal, result, expected)


@FULL
def test_rows_that_share_one_of_several_ids_are_no_negatives():
    image, text, ids = example()
    several = np.concatenate([ids, np.stack([np.arange(len(ids)) // 3, np.zeros(len(ids))], 1)], 1).astype(np.uint32)
    for seed in range(4):
        result = draw(image, text, 10.0, several, seed, (2, 1, 3), block_size=5)
        for other in (np.asarray(result.image_for_text), np.asarray(result.text_for_image)):
            assert (several[other][:, :2] != several[:, :2]).any(1).all()
            assert (several[other][:, 2:] != several[:, 2:]).any(1).all()


def test_without_ids_every_row_is_its_own_class():
    image, text, _ = example()
    ids = np.stack([np.arange(BATCH), np.zeros(BATCH)], 1).astype(np.uint32)
    for shape in (None, (4, 1, 2)):
        expected, result = (draw(image, text, 10.0, x, 0, shape) for x in (ids, None))
        jax.tree.map(np.testing.assert_array_equal, result, expected)


@FULL
@pytest.mark.parametrize("shape", [(2, 2, 2), (8, 1, 1)])
def test_local_negatives_live_on_the_same_device(shape):
    """As over the whole batch, if what lives together were by far the most similar."""
    image, text, ids = example()
    blocks = shape[0] * shape[1]
    home = 10 * np.repeat(np.eye(blocks), BATCH // blocks, axis=0)
    # The last device's rows all share an id.
    ids[-BATCH // blocks :] = 99
    result = draw(image, text, 4.0, ids, 0, shape, scope="local", block_size=5)
    expected = draw(*(np.concatenate([x, home], 1, dtype=np.float32) for x in (image, text)), 4.0, ids)
    lonely = np.arange(BATCH) >= BATCH - BATCH // blocks
    np.testing.assert_array_equal(result.has_negative, ~lonely)
    for mine, theirs in zip(result[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(mine[~lonely], theirs[~lonely])
        np.testing.assert_array_equal(mine[lonely], np.arange(BATCH)[lonely])


@FULL
@pytest.mark.parametrize("shape", [None, (2, 2, 2)])
def test_of_several_vectors_the_most_similar_counts(shape):
    image, text, ids = example()
    several = unit(np.random.default_rng(5).standard_normal((BATCH, 3, WIDTH)))
    cosines = np.einsum("iqe,je->iqj", several.astype(np.float64), text).max(1)
    cosines = np.where((ids[:, None] == ids[None]).all(-1), -np.inf, cosines)
    result = draw(several, text, 1e5, ids, 0, shape, block_size=7)
    np.testing.assert_array_equal(result.text_for_image, cosines.argmax(1))
    np.testing.assert_array_equal(result.image_for_text, cosines.argmax(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scope": "everywhere"}, "scope='everywhere' is not one of"),
        ({"block_size": 0}, "block_size=0 must be"),
        ({"mesh": (8, 1, 1)}, "12 rows do not divide over 8 devices"),
    ],
)
def test_what_cannot_be(changes, message):
    changes = changes | ({"mesh": mesh_of(changes["mesh"])} if "mesh" in changes else {})
    rows = jnp.ones((12, 4))
    with pytest.raises(ValueError, match=message):
        matching.hard_negatives(rows, rows, jnp.float32(1.0), None, keys_of(12), **changes)


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_loss_of_pairs_and_their_negatives():
    """Rows 0 and 2 have negatives, row 1 has none: seven examples count."""
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((9, 2))).astype(np.float32)

    def loss(logits, has_negative):
        labels, weights = matching.itm_targets(has_negative)
        value, metrics = matching.itm_loss(logits, labels, weights)
        return value, (labels, weights, metrics)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (labels, weights, metrics)), gradient = run(logits, np.array([True, False, True]))
    np.testing.assert_array_equal(labels, [1] * 3 + [0] * 6)
    np.testing.assert_array_equal(weights, [1, 1, 1, 1, 0, 1, 1, 0, 1])
    counted = np.array([0, 1, 2, 3, 5, 6, 8])
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    expected = -log_p[np.arange(9), labels][counted]
    assert float(value) == pytest.approx(expected.mean(), rel=1e-6)
    accuracy = (logits.argmax(1) == labels)[counted].mean()
    assert float(metrics["itm_accuracy"]) == pytest.approx(accuracy) and 0 < accuracy < 1
    slopes = (np.exp(log_p) - np.eye(2)[labels]) * np.asarray(weights)[:, None] / 7
    np.testing.assert_allclose(gradient, slopes, atol=1e-6)
