"""Losses of masks against float64 NumPy, and PyTorch's as Sound of Pixels calls them in the full tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mmjax.objectives import token_loss
from mmjax.objectives.separation import mask_loss, mask_targets

KINDS = [(kind, loss, weighted) for kind in ("binary", "ratio") for loss in ("bce", "l1") for weighted in (True, False)]


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((3, 5, 7))).astype(np.float32)
    target, other = (np.exp(3 * rng.standard_normal((2, 3, 5, 7)))).astype(np.float32)
    mixture = (target + other) * rng.uniform(0.5, 1, target.shape).astype(np.float32)
    mixture[0, 0], target[0, 1], mixture[0, 2] = 0, 0, 1e6  # silence, a silent sound, a weight that is clipped
    return logits, target, mixture


def twin(logits, target, mixture, kind, loss, weighted):
    """Value and gradient in float64."""
    logits, target, mixture = (np.asarray(x, np.float64) for x in (logits, target, mixture))
    mixture = mixture + 1e-10
    mask = (target > 0.5 * mixture).astype(float) if kind == "binary" else np.minimum(target / mixture, 1)
    p = scipy.special.expit(logits)
    if loss == "bce":
        values = -mask * scipy.special.log_expit(logits) - (1 - mask) * scipy.special.log_expit(-logits)
        slopes = p - mask
    else:
        values, slopes = abs(p - mask), np.sign(p - mask) * p * (1 - p)
    weight = np.clip(np.log1p(mixture), 1e-3, 10) if weighted else np.ones_like(mixture)
    return (weight * values).mean(), weight * slopes / values.size


@pytest.mark.parametrize(("kind", "loss", "weighted"), KINDS)
def test_values_and_gradients_are_those_of_float64(kind, loss, weighted):
    logits, target, mixture = example()
    settings = dict(kind=kind, loss=loss, weighted=weighted)
    function = lambda x: token_loss.mean(mask_loss(x, jnp.asarray(target), jnp.asarray(mixture), **settings))[0]
    value, gradient = jax.jit(jax.value_and_grad(function))(logits)
    expected, slopes = twin(logits, target, mixture, kind, loss, weighted)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, slopes, atol=1e-6)


def test_masks():
    target, mixture = jnp.float32([[[0.0, 1.0, 1.1, 5.0]]]), jnp.float32([[[0.0, 2.0, 2.0, 2.0]]])
    assert mask_targets(target, mixture).tolist() == [[[0, 0, 1, 1]]]
    np.testing.assert_allclose(mask_targets(target, mixture, "ratio"), [[[0, 0.5, 0.55, 1]]], rtol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["binary", "ratio"])
def test_pytorch_agrees(kind):
    import torch

    logits, target, mixture = example(1)
    magnitudes = torch.from_numpy(mixture).double() + 1e-10
    weight = torch.clamp(torch.log1p(magnitudes), 1e-3, 10)
    mask = torch.from_numpy(target).double() / magnitudes
    mask = (mask > 0.5).double() if kind == "binary" else mask.clamp(0, 1)
    x = torch.from_numpy(logits).double().requires_grad_()
    expected = torch.nn.functional.binary_cross_entropy(torch.sigmoid(x), mask, weight=weight)
    expected.backward()
    function = lambda x: token_loss.mean(mask_loss(x, jnp.asarray(target), jnp.asarray(mixture), kind=kind))[0]
    value, gradient = jax.value_and_grad(function)(jnp.asarray(logits))
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=1e-6)
