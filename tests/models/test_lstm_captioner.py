"""The LSTM captioner: against float64 numpy, step by step, and under generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders import Encoded
from mmjax.models.generation import Decoding, generate
from mmjax.models.lstm_captioner import LSTMCaptioner

B, N, T, VOCAB = 3, 4, 5, 7
MODULE = LSTMCaptioner(VOCAB, width=6, embed_width=5, layers=2)
VALID = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], bool)  # the last image is missing


@pytest.fixture(scope="module")
def image():
    tokens = np.random.default_rng(0).standard_normal((B, N, 8)).astype(np.float32)
    return Encoded(jnp.asarray(tokens), jnp.asarray(VALID))


@pytest.fixture(scope="module")
def text():
    return jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, (B, T)), jnp.int32)


@pytest.fixture(scope="module")
def params(random_params, image, text):
    filled = random_params(jax.eval_shape(MODULE.init, jax.random.key(0), image, text)["params"], std=0.6)
    return jax.tree.map(jnp.asarray, filled)


@pytest.fixture(scope="module")
def teach():
    return jax.jit(lambda params, *args: MODULE.apply({"params": params}, *args))


def call(params, method, *args):
    return MODULE.apply({"params": params}, *args, method=method)


def brute_force(params, tokens, text):
    """One example: the paper's equations in float64. Returns logits and attention weights."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    dense = lambda name, x: x @ params[name]["kernel"] + params[name].get("bias", 0)
    mean = tokens.mean(axis=0) if len(tokens) else np.zeros(8)
    c, h = (np.tanh(dense(name, mean)).reshape(2, 6) for name in ("first_c", "first_h"))
    logits, attention = [], []
    for token in text:
        word, query = params["token_embedding"][token], h[-1]
        scores = [dense("attention_score", np.tanh(dense("attention_key", a) + dense("attention_query", query)))[0]
                  for a in tokens]  # fmt: skip
        weights = np.exp(scores) / np.exp(scores).sum()
        seen = sigmoid(dense("attention_gate", query)) * (weights @ tokens if len(tokens) else np.zeros(8))
        x = np.concatenate([word, seen])
        for layer in range(2):
            cell = params["lstm"][f"cells_{layer}"]
            i, f, g, o = (
                x @ cell["i" + gate]["kernel"] + h[layer] @ cell["h" + gate]["kernel"] + cell["h" + gate]["bias"]
                for gate in "ifgo"
            )
            c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
            x = h[layer] = sigmoid(o) * np.tanh(c[layer])
        logits.append(dense("logits", word + dense("from_state", x) + dense("from_image", seen)))
        attention.append(weights)
    return np.array(logits), np.array(attention)


def test_logits_and_attention_follow_the_paper(params, image, text, teach):
    logits = teach(params, image, text)
    sowing = lambda params: MODULE.apply({"params": params}, image, text, mutable=["intermediates"])
    attention = jax.jit(sowing)(params)[1]["intermediates"]["weights"][0]
    for b in range(B):
        expected, weights = brute_force(params, np.asarray(image.tokens[b], np.float64)[VALID[b]], text[b])
        np.testing.assert_allclose(logits[b], expected, atol=3e-6)
        np.testing.assert_allclose(attention[b][:, VALID[b]], weights, atol=1e-6)
        np.testing.assert_array_equal(attention[b][:, ~VALID[b]], 0)


def test_stepping_equals_teacher_forcing(params, image, text, teach):
    logits = teach(params, image, text)
    step = jax.jit(lambda carry, tokens: call(params, "step", carry, tokens))
    carry = jax.jit(lambda image: call(params, "start", image))(image)
    for t in range(T):
        out, carry = step(carry, text[:, t])
        np.testing.assert_allclose(out, logits[:, t], atol=1e-6)


def test_padding_and_other_examples_change_nothing(params, image, text, teach):
    logits = teach(params, image, text)
    garbage = Encoded(jnp.where(VALID[..., None], image.tokens, jnp.nan).at[0].multiply(-3.0), image.valid)
    np.testing.assert_array_equal(teach(params, garbage, text.at[:, 3:].set(0))[1:, :3], logits[1:, :3])


def test_every_parameter_has_a_gradient_and_garbage_none(params, image, text):
    def loss(params, tokens):
        keys = jax.random.split(jax.random.key(0), B)
        module = LSTMCaptioner(VOCAB, width=6, embed_width=5, layers=2, dropout=0.3)
        logits = module.apply({"params": params}, Encoded(tokens, image.valid), text, keys)
        return jnp.sum(jax.nn.log_softmax(logits)[..., 1])

    tokens = jnp.where(VALID[..., None], image.tokens, jnp.nan)
    of_params, of_tokens = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, tokens)
    for path, gradient in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, path
    assert np.isfinite(of_tokens).all()
    np.testing.assert_array_equal(np.abs(of_tokens).max(axis=-1) > 0, VALID)


@pytest.mark.full
def test_generation_scores_what_teacher_forcing_says(params, image, teach):
    settings = Decoding(method="beam", max_tokens=T, beams=3, eos_id=1, pad_id=0)
    step = lambda carry, tokens: call(params, "step", carry, tokens)

    @jax.jit
    def run(image):
        logits, carry = step(call(params, "start", image), jnp.full(B, 2, jnp.int32))
        return generate(step, logits, carry, settings)

    tokens, lengths, scores = run(image)
    text = jnp.concatenate([jnp.full((B, 1), 2, jnp.int32), tokens[:, :-1]], axis=1)
    gains = jax.nn.log_softmax(teach(params, image, text))
    gains = np.take_along_axis(np.asarray(gains), np.asarray(tokens)[:, :, None], axis=-1)[..., 0]
    totals = np.where(np.arange(T) < lengths[:, None], gains, 0).sum(axis=1)
    np.testing.assert_allclose(scores, totals / lengths, rtol=1e-5)
