"""The separator: its mask is a weighted sum of maps, whatever the loudness; the U-Net against PyTorch's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models.separator import Separator, UNet

VIDEO = dict(
    kind="video", width=8, heads=2, mlp_dim=8, depth=1, frames=2, image_size=8, patch_size=4, class_token=False
)
IMAGE = dict(width=8, heads=2, mlp_dim=8, depth=1, image_size=8, patch_size=4)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.standard_normal((3, 2, 8, 8, 3)), jnp.float32)
    return video, jnp.asarray(np.exp(2 * rng.standard_normal((3, 8, 16))), jnp.float32)


def make(inputs, **changes):
    model = Separator(**(dict(video=VIDEO, channels=(4, 6), features=5, upsample="subpixel") | changes))
    variables = model.init(jax.random.key(0), *inputs)
    # Biases and scales, too, are others than at the start.
    return model, jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), variables)


def test_a_mask_is_the_sum_of_maps_by_the_weights_of_pictures(inputs):
    video, mixture = inputs
    model, variables = make(inputs)
    logits = model.apply(variables, video, mixture, method="mask_logits")
    assert logits.shape == mixture.shape and logits.dtype == jnp.float32
    weights = np.asarray(model.apply(variables, video, method="picture_weights"), np.float64)
    assert (
        weights.shape == (3, 5) and (weights > 0).all() and (weights < 1).all() and np.ptp(weights, axis=0).max() > 1e-3
    )
    levels = np.log(np.asarray(mixture, np.float64) + 1e-5)
    levels = (levels - levels.mean((1, 2), keepdims=True)) / levels.std((1, 2), keepdims=True)
    seen = np.stack([levels, np.broadcast_to(np.linspace(-1, 1, 16), levels.shape)], axis=-1)
    unet = UNet((4, 6), 5, "subpixel")
    maps = np.asarray(unet.apply({"params": variables["params"]["sound"]}, jnp.asarray(seen, jnp.float32)), np.float64)
    scale, bias = (np.asarray(variables["params"][name], np.float64) for name in ("scale", "bias"))
    np.testing.assert_allclose(logits, np.einsum("btfk,bk->btf", maps, weights * scale) + bias, atol=1e-4)


def test_loudness_does_not_matter_and_pictures_do(inputs):
    video, mixture = inputs
    model, variables = make(inputs)
    logits = model.apply(variables, video, 100 * mixture + 1e-3)
    np.testing.assert_allclose(logits, model.apply(variables, video, 10 * mixture + 1e-4), atol=1e-3)
    other = model.apply(variables, video[::-1], 100 * mixture + 1e-3)
    assert abs(np.asarray(other - logits)[[0, 2]]).max() > 1e-3 and np.allclose(other[1], logits[1], atol=1e-5)
    silent = model.apply(variables, video, jnp.zeros_like(mixture))
    assert np.isfinite(silent).all()


def test_without_pictures_one_vector_stands_for_all(inputs):
    video, mixture = inputs
    model, variables = make(inputs, pictures=False)
    assert set(variables["params"]) == {"weights", "sound", "scale", "bias"}
    logits = model.apply(variables, video, mixture)
    np.testing.assert_array_equal(logits, model.apply(variables, jnp.zeros_like(video), mixture))


def test_an_image_may_be_what_is_seen(inputs):
    images = inputs[0][:, 0]
    model, variables = make((images, inputs[1]), video=None, image=IMAGE)
    assert model.seen == "image" and "image_encoder" in str(jax.tree.structure(variables))
    assert model.apply(variables, images, inputs[1]).shape == inputs[1].shape


@pytest.mark.parametrize("upsample", ["bilinear", "subpixel"])
def test_a_u_net_keeps_the_grid_and_refuses_what_it_cannot_halve(upsample):
    net = UNet((4, 6, 6), 3, upsample)
    x = jnp.ones((2, 16, 24, 2))
    variables = net.init(jax.random.key(0), x)
    assert net.apply(variables, x).shape == (2, 16, 24, 3)
    with pytest.raises(UserError, match="halve 12 frames and 24 bins"):
        net.init(jax.random.key(0), jnp.ones((2, 12, 24, 2)))
    with pytest.raises(UserError, match="model.upsample='nearest'"):
        UNet((4,), 3, "nearest").init(jax.random.key(0), x)


def test_what_a_cell_is_depends_on_its_surroundings_alone():
    """Maps of cells far from a change, beyond all levels' windows, stay as they are."""
    net = UNet((4,), 3, "subpixel")
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 2))
    variables = net.init(jax.random.key(0), x)
    changed = abs(net.apply(variables, x.at[:, 8, 8].add(1.0)) - net.apply(variables, x)).max(-1)[0]
    rows, columns = np.nonzero(np.asarray(changed) > 1e-7)
    assert rows.min() >= 6 and rows.max() <= 11 and columns.min() >= 6 and columns.max() <= 11 and len(rows)


@pytest.mark.full
def test_the_published_u_net_is_pytorch_s_layers():
    """The same computation by PyTorch: convolutions, bilinear upsampling (corners not aligned) and skips."""
    import torch
    from torch.nn import functional

    net = UNet((4, 6), 3, "bilinear")
    x = np.random.default_rng(0).standard_normal((2, 8, 16, 2)).astype(np.float32)
    variables = net.init(jax.random.key(0), jnp.asarray(x))
    variables = jax.tree.map(lambda a: a + 0.2 * jax.random.normal(jax.random.key(1), a.shape), variables)
    params = jax.tree.map(lambda a: torch.from_numpy(np.asarray(a)).double(), variables["params"])

    def conv(name, x, **options):
        return functional.conv2d(x, params[name]["kernel"].permute(3, 2, 0, 1), params[name]["bias"], **options)

    def norm(name, x):
        p = params[name]
        y = functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), p["scale"], p["bias"], 1e-6)
        return y.permute(0, 3, 1, 2)

    def up(name, x):
        return conv(name, functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), padding=1)

    y = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    first = functional.leaky_relu(norm("down_norm_0", conv("down_0", y, stride=2, padding=1)), 0.2)
    second = functional.leaky_relu(norm("down_norm_1", conv("down_1", first, stride=2, padding=1)), 0.2)
    top = torch.cat([functional.relu(norm("up_norm_1", up("up_1", second))), first], dim=1)
    expected = up("up_0", top).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(net.apply(variables, jnp.asarray(x)), expected, atol=2e-5)
