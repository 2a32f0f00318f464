"""Captioning loss against float64 brute force (and PyTorch's, in the full tests), and sums that add up exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mmjax.objectives import token_loss
from mmjax.objectives.captioning import caption_loss
from mmjax.objectives.cross_entropy import cross_entropy

BATCH, LENGTH, VOCAB = 4, 6, 11


def example(seed=0, std=3.0):
    rng = np.random.default_rng(seed)
    logits = (std * rng.standard_normal((BATCH, LENGTH, VOCAB))).astype(np.float32)
    targets = rng.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < np.array([6, 3, 0, 1])[:, None]
    return logits, targets, mask


@functools.partial(jax.jit, static_argnums=3)
def run(logits, targets, mask, smoothing=0.0):
    """The mean loss, the metrics, the sums per example, and the gradient."""

    def loss(logits):
        sums = caption_loss(logits, targets, mask, smoothing)
        value, metrics = token_loss.mean(sums)
        return value, (metrics, sums)

    (value, (metrics, sums)), gradient = jax.value_and_grad(loss, has_aux=True)(logits)
    return value, metrics, sums, gradient


def brute_force(logits, targets, smoothing):
    """Every token's loss, from the smoothed distribution written out, and the gradient of their sum."""
    logits = logits.astype(np.float64)
    wanted = (1 - smoothing) * np.eye(VOCAB)[targets] + smoothing / VOCAB
    return -(wanted * scipy.special.log_softmax(logits, axis=-1)).sum(-1), scipy.special.softmax(
        logits, axis=-1
    ) - wanted


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("std", [3.0, 60.0])
def test_value_and_gradient(smoothing, std):
    logits, targets, mask = example(std=std)
    losses, slopes = brute_force(logits, targets, smoothing)
    value, metrics, sums, gradient = run(logits, targets, mask, smoothing)
    assert float(value) == pytest.approx(losses[mask].mean(), rel=1e-6)
    np.testing.assert_allclose(sums.total, (losses * mask).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(sums.count, [6, 3, 0, 1])
    np.testing.assert_allclose(gradient, slopes * mask[..., None] / mask.sum(), atol=1e-6)
    hits = logits.argmax(-1) == targets
    assert float(metrics["caption_accuracy"]) == pytest.approx(hits[mask].mean())


def test_nothing_counted_is_no_loss():
    logits, targets, mask = example()
    value, _, _, gradient = run(logits, targets, mask & False)
    assert float(value) == 0.0 and not np.asarray(gradient).any()


def test_microbatches_of_uneven_lengths_add_up():
    """Sums joined from pieces give the mean over all tokens, which the mean of the pieces' means is not."""
    logits, targets, mask = example()
    pieces = [run(logits[rows], targets[rows], mask[rows]) for rows in (slice(2), slice(2, 4))]
    joined = jax.tree.map(lambda *x: jnp.asarray(np.concatenate(x)), *(sums for _, _, sums, _ in pieces))
    value, metrics = token_loss.mean(joined)
    undivided, expected, _, _ = run(logits, targets, mask)
    assert float(value) == pytest.approx(float(undivided), rel=1e-6)
    assert float(metrics["caption_accuracy"]) == pytest.approx(float(expected["caption_accuracy"]), rel=1e-6)
    assert abs(np.mean([value for value, *_ in pieces]) - float(undivided)) > 0.01


def test_bfloat16_logits_are_summed_in_float32():
    logits, targets, _ = example()
    half = jnp.asarray(logits, jnp.bfloat16)
    both = jax.jit(jax.value_and_grad(lambda x, targets: cross_entropy(x, targets, 0.1).sum()))
    value, gradient = both(half, targets)
    losses, slopes = brute_force(np.asarray(half, np.float32), targets, 0.1)
    assert float(value) == pytest.approx(losses.sum(), rel=1e-6)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gradient, np.float32), slopes, rtol=2**-8, atol=1e-6)


def test_the_backward_pass_keeps_the_logits_alone():
    """No float32 copy of bfloat16 logits, no one-hot targets."""
    logits = jax.ShapeDtypeStruct((4, 16, 1024), jnp.bfloat16)
    targets = jax.ShapeDtypeStruct((4, 16), jnp.int32)
    _, pull = jax.eval_shape(lambda x, y: jax.vjp(lambda x: cross_entropy(x, y, 0.1), x), logits, targets)
    large = [x.dtype for x in jax.tree.leaves(pull) if x.size >= logits.size]
    assert large == [jnp.bfloat16]


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_impossible_smoothing(smoothing):
    logits, targets, mask = map(jnp.asarray, example())
    with pytest.raises(ValueError, match=f"label_smoothing={smoothing} must be"):
        caption_loss(logits, targets, mask, smoothing)


@pytest.mark.full
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_pytorch_agrees(smoothing):
    import torch

    logits, targets, mask = example()
    torch_logits = torch.tensor(logits, requires_grad=True)
    labels = torch.tensor(np.where(mask, targets, -100)).long()
    theirs = torch.nn.functional.cross_entropy(torch_logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    theirs.backward()
    value, _, _, gradient = run(logits, targets, mask, smoothing)
    assert float(value) == pytest.approx(theirs.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, torch_logits.grad.numpy(), atol=1e-6)
