"""Training on packed texts is training on padded ones: values, gradients, losses, on any devices, after any restart."""

import functools

import jax
import mesh_steps
import numpy as np
import pytest
import tiny_recipe

from mmjax import tasks
from mmjax.data import packing as layout
from mmjax.parallel import arrays, packing
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import setup as setup_lib
from mmjax.training import step as step_lib

FULL = pytest.mark.full
BATCH, CONTEXT, EOS = 32, 32, 258


def batch(seed=0):
    """Noise, and captions of 2 to 20 tokens; some have no end of text."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 21, BATCH)
    text = rng.integers(0, 250, (BATCH, CONTEXT)).astype(np.int32)
    text[np.arange(BATCH), lengths - 1] = EOS
    text[0, lengths[0] - 1] = 7
    return {
        "image": rng.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8),
        "text": text,
        "text_mask": np.ones((BATCH, CONTEXT), bool),
        "id": np.stack([rng.integers(0, 20, BATCH), np.zeros(BATCH)], axis=1).astype(np.uint32),
    }


def packed(batch, devices, pieces, rows):
    """The same batch with its texts' places."""
    length = layout.row_length(CONTEXT)
    laid = layout.TextPacker(rows, length, BATCH // devices // pieces, pieces, EOS)(batch)
    row, column = laid.pop("text_row"), laid.pop("text_column")
    assert row.min() == 0
    return laid | {"text_places": packing.TextPlaces(row, column, rows, length)}


@functools.cache
def value_and_grad(mesh, pieces, noise):
    """Parameters, and the loss and its gradient on a mesh; with noise in the image tower, which is not packed."""
    config = tiny_recipe.get_config()
    config.batch_size, config.microbatch = BATCH, pieces
    config.mesh.update(dict(zip(mesh_lib.AXES, mesh, strict=True)))
    config.model.image.dropout = 0.2 if noise else 0.0
    devices = mesh_lib.make_mesh(config.mesh, jax.devices()[: np.prod(mesh)])
    task = tasks.Task(config, tasks.make_image_spec(config), mesh=devices)
    setup = setup_lib.make_setup(config, task, devices)
    total = step_lib.make_loss(task, pieces, devices)
    keys = lambda: jax.random.split(jax.random.key(0), BATCH) if noise else None
    function = lambda params, batch: jax.value_and_grad(lambda p: total(p, batch, keys())[0])(params)
    shardings = setup.shardings.params, mesh_lib.batch_sharding(devices)
    return setup.state.params, devices, jax.jit(function, in_shardings=shardings)


MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)]
CASES = [(mesh, pieces, False) for mesh in MESHES for pieces in (1, 2)] + [((2, 2, 2), 2, True)]
QUICK = [((2, 2, 2), 2, False)]


@pytest.mark.parametrize(
    "mesh, pieces, noise", [case if case in QUICK else pytest.param(*case, marks=FULL) for case in CASES], ids=str
)
def test_values_and_gradients_are_those_of_padded_texts(mesh, pieces, noise, random_params):
    shapes, devices, function = value_and_grad(mesh, pieces, noise)
    params = random_params(shapes)
    place = functools.partial(arrays.to_global, devices)
    plain = batch()
    value, gradient = function(params, place(plain))
    spread = mesh_lib.batch_devices(devices)
    rows = BATCH // spread // pieces
    value2, gradient2 = function(params, place(packed(plain, spread, pieces, max(2, rows // 2))))
    assert float(value2) == pytest.approx(float(value), rel=1e-6)
    gradient, gradient2 = mesh_steps.flat(gradient), mesh_steps.flat(gradient2)
    assert mesh_steps.relative(gradient2, gradient) <= 1e-5
    for path in ("text/token_embedding", "text/position_embedding", "text_head/projection/kernel"):
        assert mesh_steps.relative({path: gradient2[path]}, {path: gradient[path]}) <= 1e-5, path
        assert np.abs(gradient[path]).max() > 0
