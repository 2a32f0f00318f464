"""The LSTM stack against float64 numpy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.lstm import LSTM, LSTMCarry

B, T, WIDTH, LAYERS = 3, 5, 4, 2
MODULE = LSTM(WIDTH, LAYERS)
# Padding at the end, in between and at the start.
VALID = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1], [0, 1, 1, 1, 0]], bool)


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).standard_normal((B, T, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params(random_params, inputs):
    return random_params(jax.eval_shape(MODULE.init, jax.random.key(0), inputs)["params"], std=0.7)


@pytest.fixture(scope="module")
def run(params):
    return jax.jit(lambda *args: MODULE.apply({"params": params}, *args))


@pytest.fixture(scope="module")
def carry():
    c, h = np.random.default_rng(1).standard_normal((2, B, LAYERS, WIDTH)).astype(np.float32)
    return LSTMCarry(jnp.asarray(c), jnp.asarray(h))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def brute_force(params, x, c, h):
    """One example [T, Dx], gate by gate in float64."""
    c, h, outputs = np.array(c, np.float64), np.array(h, np.float64), []
    for step in np.asarray(x, np.float64):
        for layer in range(LAYERS):
            cell = params[f"cells_{layer}"]
            gate = lambda name, cell=cell, step=step, layer=layer: (
                step @ cell[f"i{name}"]["kernel"] + h[layer] @ cell[f"h{name}"]["kernel"] + cell[f"h{name}"]["bias"]
            )
            i, f, g, o = gate("i"), gate("f"), gate("g"), gate("o")
            c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
            h[layer] = sigmoid(o) * np.tanh(c[layer])
            step = h[layer]
        outputs.append(step.copy())
    return np.array(outputs), c, h


@pytest.mark.parametrize("valid", [pytest.param(None, marks=pytest.mark.full), VALID], ids=["all", "valid"])
def test_padded_steps_are_as_if_they_were_not_there(run, params, inputs, carry, valid):
    x = inputs if valid is None else np.where(valid[..., None], inputs, 9.0)
    out, after = run(x, carry, valid)
    for b in range(B):
        real = np.arange(T) if valid is None else np.flatnonzero(valid[b])
        expected, c, h = brute_force(params, inputs[b, real], carry.c[b], carry.h[b])
        np.testing.assert_allclose(out[b, real], expected, atol=1e-6)
        np.testing.assert_array_equal(np.delete(out[b], real, axis=0), 0)
        np.testing.assert_allclose(after.c[b], c, atol=2e-6)
        np.testing.assert_allclose(after.h[b], h, atol=1e-6)


@pytest.mark.full
def test_a_sequence_may_be_read_in_pieces(run, inputs, params):
    out, after = run(inputs)
    first, carry = run(inputs[:, :3])
    second, carry = run(inputs[:, 3:], carry)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), out, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, after)


@pytest.mark.full
def test_dropout_between_layers_belongs_to_an_example(params, inputs, run):
    keys = jax.random.split(jax.random.key(0), B)
    noisy = jax.jit(lambda x, keys: LSTM(WIDTH, LAYERS, dropout=0.5).apply({"params": params}, x, keys=keys)[0])
    x = jnp.asarray(inputs)
    out = noisy(x, keys)
    some = np.array([2, 0, 0])
    np.testing.assert_allclose(noisy(x[some], keys[some]), out[some], atol=1e-6)
    assert np.abs(out - run(inputs)[0]).max() > 1e-2


def test_the_state_stays_in_float32(params, inputs):
    run = lambda x: LSTM(WIDTH, LAYERS, dtype=jnp.bfloat16).apply({"params": params}, x)
    out, after = jax.eval_shape(run, inputs)
    assert (out.dtype, after.c.dtype, after.h.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)


@pytest.mark.full
@pytest.mark.parametrize("packed", [False, True])
def test_pytorch_computes_the_same(run, params, inputs, carry, packed):
    import torch

    theirs = torch.nn.LSTM(3, WIDTH, LAYERS, batch_first=True)
    with torch.no_grad():
        for layer in range(LAYERS):
            cell = params[f"cells_{layer}"]
            stack = lambda side, leaf, cell=cell: np.concatenate([cell[side + gate][leaf].T for gate in "ifgo"])
            getattr(theirs, f"weight_ih_l{layer}").copy_(torch.from_numpy(stack("i", "kernel")))
            getattr(theirs, f"weight_hh_l{layer}").copy_(torch.from_numpy(stack("h", "kernel")))
            getattr(theirs, f"bias_hh_l{layer}").copy_(torch.from_numpy(stack("h", "bias")))
            getattr(theirs, f"bias_ih_l{layer}").zero_()
        x = torch.from_numpy(inputs)
        start = tuple(torch.from_numpy(np.array(state).swapaxes(0, 1).copy()) for state in (carry.h, carry.c))
        lengths = [2, 5, 4] if packed else [T] * B
        x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        expected, (h, c) = theirs(x, start)
        expected = torch.nn.utils.rnn.pad_packed_sequence(expected, batch_first=True)[0].numpy()
    valid = np.arange(T) < np.array(lengths)[:, None]
    out, after = run(inputs, carry, valid if packed else None)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(after.h, h.numpy().swapaxes(0, 1), atol=1e-6)
    np.testing.assert_allclose(after.c, c.numpy().swapaxes(0, 1), atol=2e-6)
