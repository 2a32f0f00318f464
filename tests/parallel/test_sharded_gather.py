"""Fetched rows are those that plain indexing gives, value and gradient, and no device receives all of them."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives import matching
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import sharded_gather
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh

BATCH = 48
FULL = pytest.mark.full


@functools.cache
def mesh_of(shape):
    return make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))), jax.devices()[: math.prod(shape)])


RNG = np.random.default_rng(0)
TOKENS, WEIGHTS = (RNG.standard_normal((BATCH, 3, 4)).astype(np.float32) for _ in range(2))
VALID, CODES = RNG.random((BATCH, 3)) < 0.5, RNG.integers(0, 9, BATCH).astype(np.int32)
# How many rows go where: anything, all rows one, all rows another, each to its mirror, each to a neighbouring device.
INDEXES = {
    "random": RNG.integers(0, BATCH, BATCH),
    "first": np.zeros(BATCH, int),
    "last": np.full(BATCH, BATCH - 1),
    "mirrored": np.arange(BATCH)[::-1],
    "next": (np.arange(BATCH) + BATCH // 8) % BATCH,
    "own": np.arange(BATCH),
}


def run(shape, remat, index, scope="global"):
    return jax.tree.map(np.asarray, compiled(shape, remat, scope)(TOKENS, np.asarray(index, np.int32)))


@functools.cache
def compiled(shape, remat, scope):
    """`(tokens, index) -> fetched arrays, gradient`."""
    mesh = mesh_of(shape)

    def fetched(tokens, index):
        tree = {"tokens": tokens, "more": (jnp.asarray(VALID), jnp.asarray(CODES))}
        result = sharded_gather.gather_rows(tree, index, mesh=mesh, scope=scope)
        return jnp.sum(result["tokens"] ** 2 * WEIGHTS[: len(index)]), result

    def both(tokens, index):
        with mesh_lib.activation_mesh(mesh if remat else None):
            function = jax.checkpoint(fetched) if remat else fetched
            (_, result), gradient = jax.value_and_grad(function, has_aux=True)(tokens, index)
        return result, gradient

    rows = mesh_lib.batch_sharding(mesh)
    return jax.jit(both, in_shardings=(rows, rows))


def check(result, gradient, index):
    np.testing.assert_array_equal(result["tokens"], TOKENS[index])
    np.testing.assert_array_equal(result["more"][0], VALID[index])
    np.testing.assert_array_equal(result["more"][1], CODES[index])
    expected = np.zeros(TOKENS.shape)
    np.add.at(expected, index, 2.0 * TOKENS[index] * WEIGHTS[: len(index)])
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "remat"),
    [
        ((4, 1, 2), True),
        pytest.param((2, 2, 2), True, marks=FULL),
        pytest.param((8, 1, 1), False, marks=FULL),
        pytest.param((1, 8, 1), True, marks=FULL),
        pytest.param((1, 2, 4), False, marks=FULL),
        pytest.param((1, 1, 8), False, marks=FULL),
    ],
)
def test_fetched_rows_are_the_indexed_ones(shape, remat):
    for index in INDEXES.values():
        check(*run(shape, remat, index), index)


@FULL
def test_fewer_rows_than_there_are():
    for index in (np.zeros(16, int), RNG.integers(0, BATCH, 16)):
        check(*run((4, 2, 1), False, index), index)


@FULL
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_local_rows_are_exchanged_with_nobody(shape):
    size = BATCH // (shape[0] * shape[1])
    index = np.arange(BATCH) // size * size + RNG.integers(0, size, BATCH)
    check(*run(shape, False, index, "local"), index)
    program = compiled(shape, False, "local").lower(TOKENS, index.astype(np.int32)).compile().as_text()
    assert not re.search(r"all-gather|all-to-all|collective-permute", program)


@FULL
def test_gradients_of_a_wanted_row_are_summed_in_float32():
    """In bfloat16 the sum of 48 ones and a hundredth each would stall."""
    index, mesh = jnp.zeros(BATCH, jnp.int32), mesh_of((8, 1, 1))
    loss = lambda x: jnp.sum(sharded_gather.gather_rows(x, index, mesh=mesh).astype(jnp.float32) * 1.0078125)
    gradient = jax.jit(jax.grad(loss))(jnp.ones((BATCH, 2), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient[0], np.float32), jnp.bfloat16(48 * 1.0078125))


@pytest.mark.parametrize("mesh", [None, (1, 1, 8)])
def test_where_every_device_has_all_rows_they_are_indexed(mesh):
    index = jnp.array([3, 3, 0], jnp.int32)
    result = sharded_gather.gather_rows({"x": jnp.asarray(CODES)}, index, mesh=None if mesh is None else mesh_of(mesh))
    np.testing.assert_array_equal(result["x"], CODES[[3, 3, 0]])


@pytest.mark.parametrize(
    ("rows", "wanted", "scope", "message"),
    [
        ((16,), 16, "near", "scope='near' is not one of"),
        ((12,), 16, "global", "12 rows do not divide over 8 devices"),
        ((16,), 12, "global", "12 rows do not divide over 8 devices"),
        ((16, 24), 16, "global", r"different numbers of rows, \[16, 24\]"),
    ],
)
def test_what_cannot_be(rows, wanted, scope, message):
    tree = [jnp.zeros(n) for n in rows]
    with pytest.raises(ValueError, match=message):
        sharded_gather.gather_rows(tree, jnp.zeros(wanted, jnp.int32), mesh=mesh_of((8, 1, 1)), scope=scope)


# -- what the compiler makes of it -------------------------------------------------------------------------------------


@FULL
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_memory_at_a_batch_of_32768(shape):
    """Draw, fetch and gradient stay within a few times one device's own tokens; plain indexing gathers all of them."""
    batch, mesh = 2**15, mesh_of(shape)
    rows, everywhere = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)

    def step(image, text, tokens, ids, keys, weights, plain):
        chosen = matching.hard_negatives(image, text, jnp.float32(20.0), ids, keys, mesh=mesh).image_for_text
        take = (lambda x: x[chosen]) if plain else (lambda x: sharded_gather.gather_rows(x, chosen, mesh=mesh))
        result, pull = jax.vjp(take, tokens)
        return pull(result * weights)[0]

    abstract = lambda shape, dtype, sharding=rows: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    tokens, embeddings = abstract((batch, 50, 64), jnp.bfloat16), abstract((batch, 64), jnp.float32)
    args = (embeddings, embeddings, tokens, abstract((batch, 2), jnp.uint32), abstract(keys.shape, keys.dtype))
    args += (abstract((64,), jnp.bfloat16, everywhere),)
    local_bytes = batch * 50 * 64 * 2 / mesh_lib.batch_devices(mesh)

    def temporaries(plain):
        run = jax.jit(functools.partial(step, plain=plain), out_shardings=rows)
        program = run.lower(*args).compile()
        gathered = re.findall(r"\w+\[([\d,]+)\][^=\n]*? all-gather(?:-start)?\(", program.as_text())
        largest = max((math.prod(map(int, x.split(","))) for x in gathered), default=0)
        return program.memory_analysis().temp_size_in_bytes / local_bytes, largest

    space, gathered = temporaries(plain=False)
    assert space <= 4 and gathered <= batch * 64
    space, gathered = temporaries(plain=True)
    assert space >= mesh_lib.batch_devices(mesh) and gathered == batch * 50 * 64
