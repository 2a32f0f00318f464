"""`dense`, `gather` and `ring`: one value and one gradient, on any mesh, in tiles of any size.

The reference is brute force in float64. `make test` samples the grid, `make test-full` runs a tenth of
it and `make campaign` all.
"""

import collections
import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives import tiled_logits
from mmjax.objectives.contrastive import sigmoid_loss, softmax_loss
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from tests.helpers import campaign

BATCH, WIDTH = 48, 12
SHAPES = [(1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 1, 8)]
KINDS = ["softmax", "sigmoid"]
BIAS = -10.0


def brute_force(kind, image, text, scale, ids):
    """Value and gradients (image, text, scale, bias) in float64.

    Written so that float64 does not cancel either: softmax as log1p of the ratio of negatives to positives.
    """
    image, text, scale = image.astype(np.float64), text.astype(np.float64), float(np.float32(scale))
    batch = len(image)
    cosines = image @ text.T
    pairs = np.eye(batch, dtype=bool)
    if ids is not None:  # one of the ids, of two words each, is equal
        pairs = (ids[:, None] == ids[None]).reshape(batch, batch, -1, 2).all(-1).any(-1)
    if kind == "sigmoid":
        against = np.where(pairs, -1.0, 1.0) * (scale * cosines + BIAS)
        loss = np.logaddexp(0, against).sum() / batch
        slope = np.where(pairs, -1.0, 1.0) / (1 + np.exp(-against)) / batch
        return loss, (scale * slope @ text, scale * slope.T @ image, (slope * cosines).sum(), slope.sum())
    loss, slope = 0.0, np.zeros((batch, batch))
    for logits, transpose in ((scale * cosines, False), (scale * cosines.T, True)):
        largest = [np.where(which, logits, -np.inf).max(1, keepdims=True) for which in (~pairs, pairs)]
        negative, positive = (
            np.where(which, np.exp(logits - top), 0) for which, top in zip((~pairs, pairs), largest, strict=True)
        )
        lse_neg, lse_pos = (
            np.log(x.sum(1, keepdims=True)) + top for x, top in zip((negative, positive), largest, strict=True)
        )
        count = pairs.sum(1, keepdims=True)
        mean = np.where(pairs, logits, 0).sum(1, keepdims=True) / count
        loss += 0.5 * (np.logaddexp(0, lse_neg - lse_pos) + np.where(count == 1, 0, lse_pos - mean)).sum() / batch
        miss = 1 / (1 + np.exp(lse_pos - lse_neg))
        among = positive / positive.sum(1, keepdims=True)
        wanted = np.where(count == 1, -miss, among - 1 / count - among * miss)
        part = np.where(pairs, wanted, negative / negative.sum(1, keepdims=True) * miss)
        slope += 0.5 / batch * (part.T if transpose else part)
    return loss, (scale * slope @ text, scale * slope.T @ image, (slope * cosines).sum())


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def embeddings(how, shared, seed=0):
    """Unit rows and ids, with `shared="several"` two of each row; `aligned` pairs have a cosine above 0.9."""
    rng = np.random.default_rng(seed)
    ids = None
    if shared:
        # 64 bits: some ids differ in one of their two words only.
        ids = np.stack([rng.integers(0, BATCH // 2, BATCH), rng.integers(0, 2, BATCH)], 1).astype(np.uint32)
    if shared == "several":  # no equivalence: a pair may share one with two that share none
        ids = np.concatenate([ids, np.stack([rng.integers(0, BATCH // 2, BATCH), np.zeros(BATCH)], 1)], 1)
        ids = ids.astype(np.uint32)
    normal = lambda: unit(rng.standard_normal((BATCH, WIDTH)))
    if how == "random":
        return normal().astype(np.float32), normal().astype(np.float32), ids
    centre = normal()
    if shared:
        _, first = np.unique(ids, axis=0, return_inverse=True)
        centre = centre[first.reshape(-1)]
    image, text = (unit(centre + 0.2 * normal()).astype(np.float32) for _ in range(2))
    assert (image * text).sum(1).min() > 0.9
    return image, text, ids


@functools.cache
def mesh_of(shape):
    return make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))), jax.devices()[: math.prod(shape)])


def with_gradients(kind, impl, mesh, block_size):
    """`(image, text, scale, bias, ids) -> ((loss, accuracy), gradients)`, compiled."""

    def value(image, text, scale, bias, ids):
        numbers = (scale,) if kind == "softmax" else (scale, bias)
        function = softmax_loss if kind == "softmax" else sigmoid_loss
        loss, metrics = function(image, text, *numbers, ids, impl=impl, mesh=mesh, block_size=block_size)
        return loss, metrics["accuracy"]

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3), has_aux=True))


def check(kind, impl, shape, block_size, shared):
    mesh = mesh_of(shape)
    run = with_gradients(kind, impl, mesh, block_size)
    for how, scale in itertools.product(["random", "aligned"], [1 / 0.07, 100.0]):
        image, text, ids = embeddings(how, shared)
        rows = [None if x is None else jax.device_put(x, mesh_lib.batch_sharding(mesh)) for x in (image, text, ids)]
        (loss, _), gradients = run(*rows[:2], jnp.float32(scale), jnp.float32(BIAS), rows[2])
        expected_loss, expected = brute_force(kind, image, text, scale, ids)
        limit = 1e-4 if how == "aligned" else 5e-5 if scale == 100.0 else 1e-5
        assert abs(float(loss) - expected_loss) <= limit * abs(expected_loss)
        for name, result, wanted in zip(("image", "text", "scale", "bias"), gradients, expected, strict=False):
            result = np.asarray(result, np.float64)
            assert np.isfinite(result).all()
            error = np.linalg.norm(result - wanted) / np.linalg.norm(wanted)
            assert error <= limit, f"{name}: {error:.1e} with {how} rows at scale {scale}"


# 5 divides nothing here; 4 divides all; 64 is larger than any device's share.
BLOCKS = [4, 5, 64]


@pytest.mark.parametrize(
    ("impl", "kind", "shape", "block_size", "shared"),
    [
        ("dense", "softmax", (1, 1, 1), 64, True),
        ("dense", "softmax", (2, 2, 2), 64, False),
        ("dense", "sigmoid", (8, 1, 1), 64, True),
        ("gather", "softmax", (1, 1, 1), 5, False),
        ("gather", "softmax", (2, 2, 2), 7, True),
        ("gather", "sigmoid", (1, 1, 8), 4, True),
        ("ring", "softmax", (1, 1, 1), 7, True),
        ("ring", "softmax", (8, 1, 1), 5, False),
        ("ring", "softmax", (2, 2, 2), 4, True),
        ("ring", "sigmoid", (4, 1, 1), 5, True),
        ("ring", "sigmoid", (1, 1, 8), 64, False),
        ("dense", "softmax", (8, 1, 1), 64, "several"),
        ("gather", "softmax", (8, 1, 1), 5, "several"),
        ("gather", "sigmoid", (2, 2, 2), 4, "several"),
        ("ring", "softmax", (2, 2, 2), 5, "several"),
        ("ring", "softmax", (1, 1, 1), 64, "several"),
        ("ring", "sigmoid", (8, 1, 1), 5, "several"),
    ],
)
def test_value_and_gradients(impl, kind, shape, block_size, shared):
    check(kind, impl, shape, block_size, shared)


GRID = [
    (impl, kind, shape, block_size, shared)
    for impl, block_size in [("dense", 64), *itertools.product(["gather", "ring"], BLOCKS)]
    for shape, kind, shared in itertools.product(SHAPES, KINDS, [False, True])
]


@pytest.mark.full
@pytest.mark.parametrize(("impl", "kind", "shape", "block_size", "shared"), campaign.tenth(GRID))
def test_value_and_gradients_everywhere(impl, kind, shape, block_size, shared):
    check(kind, impl, shape, block_size, shared)


@pytest.mark.parametrize("impl", ["gather", "ring"])
@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_and_the_loss_alone(impl, kind):
    """What evaluation computes, without gradients; and that metrics agree."""
    mesh = mesh_of((4, 1, 1))
    function = softmax_loss if kind == "softmax" else sigmoid_loss
    numbers = (jnp.float32(20.0),) if kind == "softmax" else (jnp.float32(20.0), jnp.float32(-3.0))
    compiled = [jax.jit(functools.partial(function, impl=name, mesh=mesh, block_size=5)) for name in (impl, "dense")]
    seen = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        image = unit(rng.standard_normal((BATCH, WIDTH))).astype(np.float32)
        text = unit(image + 0.7 * unit(rng.standard_normal((BATCH, WIDTH)))).astype(np.float32)
        ids = np.stack([np.arange(BATCH) % 30, np.zeros(BATCH)], 1).astype(np.uint32)
        (loss, metrics), (expected_loss, expected) = (run(image, text, *numbers, ids) for run in compiled)
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
        assert float(metrics["accuracy"]) == pytest.approx(float(expected["accuracy"]), abs=1e-6)
        seen.append(float(metrics["accuracy"]))
    assert 0.1 < np.mean(seen) < 0.99


@pytest.mark.parametrize("impl", ["dense", "gather", "ring"])
def test_a_tie_is_no_hit(impl):
    """Embeddings that have collapsed to a point find nothing."""
    same = jnp.tile(jnp.eye(8)[:1], (8, 1))
    run = functools.partial(softmax_loss, impl=impl, mesh=mesh_of((2, 1, 1)), block_size=3)
    loss, metrics = jax.jit(run)(same, same, jnp.float32(50.0))
    assert float(loss) == pytest.approx(math.log(8), abs=1e-5)
    assert float(metrics["accuracy"]) == 0.0


@pytest.mark.parametrize("impl", ["dense", "gather", "ring"])
def test_one_class_alone_has_nothing_to_learn_from_negatives(impl):
    """All ids equal: no negative anywhere, and with equal embeddings neither loss nor gradient."""
    ids = jnp.ones((BATCH, 2), jnp.uint32)
    run = with_gradients("softmax", impl, mesh_of((2, 1, 1)), 9)
    image = embeddings("random", False)[0]
    for rows, expected in ((np.tile(image[:1], (BATCH, 1)), math.log(BATCH)), (image, None)):
        (loss, _), gradients = run(jnp.asarray(rows), jnp.asarray(rows), jnp.float32(100.0), jnp.float32(0), ids)
        assert np.isfinite(float(loss)) and all(np.isfinite(np.asarray(x)).all() for x in gradients)
        if expected is not None:
            assert float(loss) == pytest.approx(expected, rel=1e-5)
            assert max(np.abs(np.asarray(x)).max() for x in gradients) < 1e-3


@pytest.mark.parametrize("impl", ["dense", "gather", "ring"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_is_none_reaches_the_loss(impl, kind):
    """The trainer stops at a loss that is not finite: no implementation may hide one."""
    image, text, _ = embeddings("random", False)
    image[13, 2] = np.nan
    run = with_gradients(kind, impl, mesh_of((2, 1, 1)), 7)
    (loss, _), _ = run(jnp.asarray(image), jnp.asarray(text), jnp.float32(10.0), jnp.float32(BIAS), None)
    assert np.isnan(float(loss))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"impl": "rings"}, "impl='rings' is not one of"),
        ({"impl": "ring", "block_size": 0}, "block_size=0 must be"),
        ({"impl": "gather", "mesh": (8, 1, 1)}, "12 rows do not divide over 8 devices"),
    ],
)
def test_what_cannot_be(changes, message):
    rows = jnp.ones((12, 4))
    changes = changes | ({"mesh": mesh_of(changes["mesh"])} if "mesh" in changes else {})
    with pytest.raises(ValueError, match=message):
        softmax_loss(rows, rows, jnp.float32(1.0), **changes)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 20, 1023, 1024, 1030, 1366, 1500, 2049, 4096])
@pytest.mark.parametrize("block", [1, 5, 8, 64, 1000, 1024])
def test_tiles_are_few_and_nearly_equal(n, block):
    size = tiled_logits.tile_size(n, block)
    assert 1 <= size <= min(n, block)
    count = -(-n // size)
    assert count == -(-n // block)  # as few as the bound allows
    assert count * size - n <= max(count, 8 * count - 1)  # little is computed twice


# -- what the compiler makes of it -------------------------------------------------------------------------------------


@functools.cache
def compiled(kind, impl, shape, batch, shared=False, width=512):
    """Value and gradients for eight devices, rows where the towers leave them. Nothing is run."""
    mesh = mesh_of(shape)
    rows, everywhere = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    run = with_gradients(kind, impl, mesh, 1024)
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32, sharding=rows)
    number = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
    ids = jax.ShapeDtypeStruct((batch, 2), jnp.uint32, sharding=rows) if shared else None
    out = ((everywhere, everywhere), (rows, rows, everywhere, everywhere))
    return jax.jit(run.__wrapped__, out_shardings=out).lower(x, x, number, number, ids).compile()


def temporaries(*args, **options):
    return compiled(*args, **options).memory_analysis().temp_size_in_bytes / 1e9


# Gigabytes a device at global batches, 512 wide, float32: half of what Inf-CL (arXiv:2410.17243) publishes, and less.
LIMITS = {2**15: 0.06, 2**16: 0.11, 2**17: 0.21, 2**18: 0.42, 2**20: 1.7}


@pytest.mark.parametrize(("batch", "shape"), [(2**15, (8, 1, 1)), (2**20, (2, 2, 2))])
def test_memory_of_the_ring(batch, shape):
    assert temporaries("softmax", "ring", shape, batch) <= LIMITS[batch]


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
@pytest.mark.parametrize(("batch", "shared"), [*((batch, False) for batch in LIMITS), (2**15, True), (2**20, True)])
def test_memory_of_the_ring_everywhere(kind, shape, batch, shared):
    assert temporaries(kind, "ring", shape, batch, shared) <= LIMITS[batch]


def test_no_implementation_but_dense_holds_the_logits():
    logits = 2**15 * 2**15 / 8 * 4 / 1e9
    assert temporaries("softmax", "dense", (8, 1, 1), 2**15) > logits
    assert temporaries("softmax", "gather", (8, 1, 1), 2**15) < 0.7 * logits


def collectives(program):
    """How often each collective stands in a compiled program, by kind and type of what it makes."""
    kinds = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
    pattern = rf"= \(?(\w+)\[([\d,]*)\][^=\n]*? ({kinds})(?:-start)?\("
    result = collections.Counter()
    for kind, size, name in re.findall(pattern, program.as_text()):
        result[name, kind, math.prod(int(n) for n in size.split(",") if n) > 1024] += 1
    return result


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_collectives_of_gather(kind, shared):
    """One gather and one scatter a tower for softmax, one each for sigmoid, one small gather of ids, small sums."""
    result = collectives(compiled(kind, "gather", (8, 1, 1), 4096, shared, width=64))
    towers = 2 if kind == "softmax" else 1
    assert result.pop(("all-gather", "f32", True)) == towers
    assert result.pop(("reduce-scatter", "f32", True)) == towers
    assert result.pop(("all-gather", "u32", True), 0) == int(shared)
    # Sums of single numbers; sigmoid's accuracy needs the largest logits of all columns.
    assert {key[0] for key in result} == {"all-reduce"} and sum(result.values()) <= 3


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_collectives_of_the_ring(kind, shared):
    """It only passes on, and sums single numbers at the end."""
    result = collectives(compiled(kind, "ring", (8, 1, 1), 4096, shared, width=64))
    assert {key[0] for key in result} == {"collective-permute", "all-reduce"}
    assert result.pop(("all-reduce", "f32", False)) <= 2
    # Texts, ids and statistics on the one trip; with the gradients that travel along on the other.
    assert sum(result.values()) <= (7 if kind == "softmax" else 4)
