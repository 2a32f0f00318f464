import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives import token_loss
from mmjax.objectives.synchronization import shifted_similarities, synchronization_loss


def brute_force(video, audio, shift, scale):
    """The losses in float64, window by window and shift by shift."""
    windows, options = video.shape[1], audio.shape[1] - video.shape[1] + 1
    losses, near = [], []
    for row, sound, true in zip(video.astype(np.float64), audio.astype(np.float64), shift.tolist(), strict=True):
        logits = [scale * np.mean([row[m] @ sound[m + k] for m in range(windows)]) for k in range(options)]
        losses.append(-logits[true] + np.log(sum(np.exp(x) for x in logits)))
        near.append(abs(int(np.argmax(logits)) - true) <= 1)
    return np.array(losses), np.array(near, float)


def example(seed, windows, options, batch=5, width=6):
    rng = np.random.default_rng(seed)
    unit = lambda *shape: (x := rng.normal(size=shape)) / np.linalg.norm(x, axis=-1, keepdims=True)
    video, audio = unit(batch, windows, width), unit(batch, windows + options - 1, width)
    return video.astype(np.float32), audio.astype(np.float32), rng.integers(options, size=batch)


def loss(video, audio, scale, shift):
    return synchronization_loss(shifted_similarities(video, audio), shift, scale)


@pytest.mark.parametrize(("windows", "options"), [(1, 5), (4, 7), (3, 3)])
def test_values_are_those_of_a_loop_in_float64(windows, options):
    video, audio, shift = example(windows, windows, options)
    sums = loss(jnp.array(video), jnp.array(audio), 9.0, jnp.array(shift))
    losses, near = brute_force(video, audio, shift, 9.0)
    np.testing.assert_allclose(sums.total, losses, rtol=1e-5, atol=1e-6)
    assert (np.array(sums.count) == 1).all() and (np.array(sums.metrics["sync_accuracy"]) == near).all()


def test_gradients_are_those_of_differences_in_float64():
    video, audio, shift = example(1, 2, 4, batch=2, width=3)
    mean = lambda *args: token_loss.mean(loss(*args, jnp.array(shift)))[0]
    gradients = jax.grad(mean, argnums=(0, 1, 2))(jnp.array(video), jnp.array(audio), jnp.float32(5.0))
    step = 1e-5
    for index, gradient in enumerate(gradients):
        arguments = [video.astype(np.float64), audio.astype(np.float64), np.float64(5.0)]
        numeric = np.zeros(np.shape(arguments[index]))
        for where in np.ndindex(numeric.shape):
            sides = []
            for sign in (1, -1):
                moved = [np.array(x) for x in arguments]
                moved[index][where] += sign * step
                sides.append(brute_force(moved[0], moved[1], shift, float(moved[2]))[0].mean())
            numeric[where] = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.full
def test_values_and_gradients_are_those_of_pytorch():
    import torch

    video, audio, shift = example(2, 3, 5)
    v, a = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (video, audio))
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    products = torch.stack([(v * a[:, k : k + 3]).sum(-1).mean(1) for k in range(5)], dim=1)
    value = torch.nn.functional.cross_entropy(scale * products, torch.tensor(shift))
    value.backward()
    mean = lambda *args: token_loss.mean(loss(*args, jnp.array(shift)))[0]
    ours, gradients = jax.value_and_grad(mean, argnums=(0, 1, 2))(jnp.array(video), jnp.array(audio), jnp.float32(7))
    assert float(ours) == pytest.approx(value.item(), rel=1e-5)
    for gradient, tensor in zip(gradients, (v, a, scale), strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-4, atol=1e-6)
