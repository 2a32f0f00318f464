"""Packed texts and back: what plain indexing gives, on each device alone."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.data.loading import packing as packing_lib
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import packing
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh

BATCH, CONTEXT, ROWS, LENGTH, EOS, NOTHING = 24, 16, 5, 20, 2, 77


@functools.cache
def mesh_of(shape):
    return make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))), jax.devices()[: math.prod(shape)])


@pytest.fixture(params=[None, (1, 1, 1), (2, 2, 2), (4, 1, 1)], ids=str)
def setting(request):
    """Mesh, devices of the batch, texts and their places."""
    mesh = None if request.param is None else mesh_of(request.param)
    devices = 1 if mesh is None else mesh_lib.batch_devices(mesh)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, BATCH)
    text = rng.integers(3, NOTHING, (BATCH, CONTEXT)).astype(np.int32)
    text[np.arange(BATCH), lengths - 1] = EOS
    rows = ROWS if devices > 1 else 4 * ROWS
    batch = packing_lib.TextPacker(rows, LENGTH, BATCH // devices, 1, EOS)({"text": text})
    assert batch["text_row"].min() == 0
    positions = packing.TextPlaces(batch["text_row"], batch["text_column"], rows, LENGTH)
    return mesh, devices, text, lengths, positions


def on(mesh, function):
    """Traced for a mesh and run on it."""

    def traced(*arguments):
        with mesh_lib.activation_mesh(mesh):
            return function(*arguments)

    if mesh is None:
        return jax.jit(traced)
    return jax.jit(traced, in_shardings=mesh_lib.batch_sharding(mesh))


def reference_at(positions, devices):
    """Row among the rows of all devices, and first column, of each text."""
    device = np.arange(BATCH) // (BATCH // devices)
    return device * positions.rows + positions.row, positions.column


def test_texts_stand_where_they_are_placed(setting):
    mesh, devices, text, lengths, positions = setting
    pack = on(mesh, lambda text, positions: packing.pack(text, jnp.argmax(text == EOS, axis=1), positions, NOTHING))
    result = [np.array(x) for x in pack(text, positions)]
    assert {x.shape for x in result} == {(devices * positions.rows, LENGTH)}
    for i, (row, column) in enumerate(zip(*reference_at(positions, devices), strict=True)):
        slots = row, slice(column, column + lengths[i])
        number = i % (BATCH // devices) + 1
        assert result[0][slots].tolist() == text[i, : lengths[i]].tolist()
        assert result[1][slots].tolist() == list(range(lengths[i]))
        assert result[2][slots].tolist() == [number] * lengths[i]
        for x, nothing in zip(result, (NOTHING, -1, 0), strict=True):
            x[slots] = nothing
    for x, nothing in zip(result, (NOTHING, -1, 0), strict=True):
        assert (x == nothing).all()  # and nothing else stands anywhere


def test_last_tokens_and_their_gradients_come_back(setting):
    mesh, devices, _, lengths, positions = setting
    rng = np.random.default_rng(1)
    tokens = rng.standard_normal((devices * positions.rows, LENGTH, 3)).astype(np.float32)
    weights = rng.standard_normal((BATCH, 3)).astype(np.float32)
    last = (lengths - 1).astype(np.int32)

    def total(tokens, last, positions):
        result = packing.take_last(tokens, last, positions)
        return (result * weights).sum(), result

    (_, result), gradient = on(mesh, jax.value_and_grad(total, has_aux=True))(tokens, last, positions)
    row, column = reference_at(positions, devices)
    np.testing.assert_array_equal(result, tokens[row, column + last])
    expected = np.zeros_like(tokens)
    expected[row, column + last] = weights
    np.testing.assert_array_equal(gradient, expected)


def test_nothing_travels_between_devices(setting):
    """No collective in either direction."""
    mesh, devices, text, lengths, positions = setting
    tokens = np.zeros((devices * positions.rows, LENGTH, 3), np.float32)

    def both(text, tokens, last, positions):
        return packing.pack(text, last, positions, NOTHING), packing.take_last(tokens, last, positions)

    program = on(mesh, both).lower(text, tokens, (lengths - 1).astype(np.int32), positions).compile().as_text()
    assert not [name for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if name in program]


def test_rows_by_number():
    table = np.random.default_rng(2).standard_normal((7, 3)).astype(np.float32)
    numbers = jnp.array([[0, 6, -1], [3, 3, 0]])
    weights = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    loss = lambda table: (packing.rows_by_number(table, numbers) * weights).sum()
    result = packing.rows_by_number(jnp.asarray(table), numbers)
    np.testing.assert_array_equal(result, np.where(numbers[..., None] < 0, 0, table[np.asarray(numbers)]))
    expected = np.zeros_like(table)
    np.add.at(expected, numbers[numbers >= 0], weights[numbers >= 0])
    np.testing.assert_allclose(jax.grad(loss)(table), expected, rtol=1e-6)


def test_an_id_beyond_the_table_gets_zeros_and_gives_no_gradient():
    table = np.random.default_rng(3).standard_normal((8, 3)).astype(np.float32)
    ids = np.array([[0, 8], [7, 8]], np.int32)
    for mesh in (None, mesh_of((1, 2, 1))):
        value, gradient = on(
            mesh, lambda ids: jax.value_and_grad(lambda t: mesh_lib.embedding_lookup(t, ids).sum())(table)
        )(ids)
        np.testing.assert_allclose(value, table[[0, 7]].sum(), rtol=1e-6)
        np.testing.assert_array_equal(gradient.sum(axis=1), [3, 0, 0, 0, 0, 0, 0, 3])
