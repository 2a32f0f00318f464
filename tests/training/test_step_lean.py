"""The lean step against the plain one: loops, whole last layers, and layers whose gradients autodiff finds."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from mmjax.nn import layers, mlp, norms
from mmjax.tasks import attention_kernels
from tests.helpers import mesh_steps

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


@contextlib.contextmanager
def plain_layers(monkeypatch):
    """Layers as autodiff and flax have them: parameters rounded to the compute type, whatever is needed kept."""

    def multiply(x, kernel, axes=1, out_dtype=None):
        inputs = (tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes)))
        return jax.lax.dot_general(x, kernel.astype(x.dtype), (inputs, ((), ())), preferred_element_type=out_dtype)

    def normalize(x, scale, bias, epsilon, dtype, fenced=False):
        norm = nn.LayerNorm(epsilon, dtype, use_bias=bias is not None, use_fast_variance=False)
        return norm.apply({"params": {"scale": scale} | ({} if bias is None else {"bias": bias})}, x)

    broadcast = lambda parameter, shape, dtype: jnp.broadcast_to(parameter.astype(dtype), shape)
    with monkeypatch.context() as patch:
        patch.setattr(layers, "multiply", multiply)
        patch.setattr(layers, "broadcast_parameter", broadcast)
        patch.setattr(norms, "normalize", normalize)
        for name, function in ACTIVATIONS.items():
            patch.setitem(mlp.ACTIVATIONS, name, function)
        yield


def first_gradient(
    mesh=(1, 1, 1), *, scan=False, remat="none", keep=0, microbatch=1, precision="float32", depth=3, images=None
):
    def change(config):
        config.microbatch, config.precision = microbatch, precision
        for tower in (config.model.image, config.model.text):
            tower.depth, tower.scan, tower.remat, tower.remat_keep = depth, scan, remat, keep
        if images is not None:
            images(config.model.image)

    run = mesh_steps.Steps(mesh, change=change)
    losses, gradient, _ = run.train(run.start(), steps=2)
    return losses, gradient


@pytest.fixture(scope="module")
def plain():
    """One device, float32, looped: every layer computes all tokens."""
    with pytest.MonkeyPatch.context() as patch, plain_layers(patch):
        return first_gradient(scan=True)


FULL = pytest.mark.full


@FULL
@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(scan=True),
        dict(mesh=(2, 2, 2), microbatch=2, remat="dots", keep=1),
        dict(mesh=(8, 1, 1), remat="full"),
        dict(mesh=(1, 8, 1), remat="attention", keep=1),
        dict(mesh=(1, 1, 8)),
        dict(microbatch=4, remat="full", keep=1),
    ],
    ids=str,
)
def test_step_equals_the_plain_one(settings, plain):
    """Pairs of one kind share an id, so the contrast has several positives."""
    losses, gradient = first_gradient(**settings)
    np.testing.assert_allclose(losses, plain[0], rtol=1e-5)
    assert mesh_steps.relative(gradient, plain[1]) <= 1e-5


@FULL
@pytest.mark.parametrize("settings", [dict(mesh=(2, 2, 2), microbatch=2)], ids=str)
def test_bfloat16_step_is_as_near_to_float32(settings, plain, monkeypatch):
    with plain_layers(monkeypatch):
        _, rounded = first_gradient(scan=True, precision="bfloat16")
    _, gradient = first_gradient(precision="bfloat16", **settings)
    assert mesh_steps.relative(gradient, plain[1]) <= 1.1 * mesh_steps.relative(rounded, plain[1])


@pytest.mark.full
@pytest.mark.parametrize("settings", [dict(remat="full"), dict(mesh=(2, 2, 1), microbatch=2)], ids=str)
def test_a_step_on_the_tpus_attention(settings, monkeypatch):
    """As near to float32 as the step on XLA's attention, with images of 145 tokens; jax interprets the kernel."""

    def images(image):
        image.update(image_size=48, patch_size=4, width=128, heads=2, mlp_dim=64)

    _, exact = first_gradient(images=images, depth=2)
    _, rounded = first_gradient(images=images, depth=2, precision="bfloat16")
    kernels = lambda config, tower, *_: "pallas" if tower == "image" else "xla"
    monkeypatch.setattr(attention_kernels, "choose_kernel", kernels)
    with pltpu.force_tpu_interpret_mode():
        _, gradient = first_gradient(images=images, depth=2, precision="bfloat16", **settings)
    assert mesh_steps.relative(gradient, rounded) > 0
    assert mesh_steps.relative(gradient, exact) <= 1.1 * mesh_steps.relative(rounded, exact)
