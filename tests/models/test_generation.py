"""Generation against exhaustive search, a plain beam search without early stopping, and Hugging Face."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.errors import UserError
from mmjax.models.generation import Decoding, beam_search, generate, take_rows, truncate

V, D, EOS, PAD = 5, 9, 2, 4


class Recurrent:
    """A tiny recurrent language model, in JAX and in float64 numpy; what it says depends on the whole history."""

    def __init__(self, examples, seed=0, vocabulary=V):
        rng = np.random.default_rng(seed)
        self.hidden = rng.standard_normal((examples, D))
        self.read = rng.standard_normal((vocabulary, D))
        self.mix = rng.standard_normal((D, D))
        self.out = 1.5 * rng.standard_normal((D, vocabulary))

    def step(self, carry, tokens):
        read, mix, out = (jnp.asarray(x, jnp.float32) for x in (self.read, self.mix, self.out))
        hidden = jnp.tanh(carry["hidden"] @ mix + read[tokens])
        return hidden @ out, {"hidden": hidden, "count": carry["count"] + 1}

    def start(self, rows=slice(None)):
        hidden = jnp.asarray(self.hidden[rows], jnp.float32)
        return hidden @ jnp.asarray(self.out, jnp.float32), {"hidden": hidden, "count": jnp.int32(0)}

    def log_probs(self, example, history):
        hidden = self.hidden[example]
        for token in history:
            hidden = np.tanh(hidden @ self.mix + self.read[token])
        logits = hidden @ self.out
        return logits - np.log(np.exp(logits).sum())

    def generate(self, decoding, rows=slice(None), **settings):
        run = jax.jit(lambda logits, carry, keys: generate(self.step, logits, carry, decoding, keys, **settings))
        keys = jax.random.split(jax.random.key(1), len(self.hidden))[np.arange(len(self.hidden))[rows]]
        return run(*self.start(rows), keys)


def decoding(**settings):
    return Decoding(**{"max_tokens": 4, "eos_id": EOS, "pad_id": PAD} | settings)


def hypotheses(model, example, settings):
    """Every sequence there is with its score, best first."""
    actual = []

    def extend(history, total):
        gains = model.log_probs(example, history)
        for token in range(len(gains)):
            if token == settings.eos_id and len(history) < settings.min_tokens:
                continue
            longer, score = [*history, token], total + gains[token]
            if token == settings.eos_id or len(longer) == settings.max_tokens:
                actual.append((score / len(longer) ** settings.length_penalty, longer))
            else:
                extend(longer, score)

    extend([], 0.0)
    return sorted(actual, reverse=True)


def plain_beam_search(model, example, settings):
    """Beam search as a person would write it, to the last step: nothing stops early."""
    running, finished = [(0.0, [])], []
    for count in range(1, settings.max_tokens + 1):
        candidates = []
        for total, history in running:
            gains = model.log_probs(example, history)
            candidates += [
                (total + gains[token], [*history, token])
                for token in range(len(gains))
                if token != settings.eos_id or len(history) >= settings.min_tokens
            ]
        candidates = sorted(candidates, reverse=True)[: 2 * settings.beams]
        finished += [
            (total / count**settings.length_penalty, history)
            for total, history in candidates[: settings.beams]
            if history[-1] == settings.eos_id or count == settings.max_tokens
        ]
        running = [(t, history) for t, history in candidates if history[-1] != settings.eos_id][: settings.beams]
    return sorted(finished, reverse=True)


def assert_found(generated, expected):
    """The rows of one example are the expected (score, tokens), best first; what is beyond them is empty."""
    tokens, lengths, scores = (np.asarray(x) for x in generated)
    expected = expected[: len(scores)]
    np.testing.assert_allclose(scores[: len(expected)], [score for score, _ in expected], rtol=1e-5, atol=1e-5)
    for row, length, (_, sequence) in zip(tokens, lengths, expected, strict=False):
        assert length == len(sequence)
        assert list(row) == sequence + [PAD] * (tokens.shape[1] - length)
    assert (tokens[len(expected) :] == PAD).all()
    assert (lengths[len(expected) :] == 0).all()
    assert (scores[len(expected) :] == -np.inf).all()


@pytest.mark.parametrize(
    "penalty, min_tokens",
    [(1.0, 0), pytest.param(-1.5, 0, marks=pytest.mark.full), pytest.param(2.0, 2, marks=pytest.mark.full)],
    ids=["1", "negative", "2, at least 2 tokens"],
)
def test_beam_search_as_wide_as_all_sequences_is_exhaustive(penalty, min_tokens):
    model = Recurrent(examples=2)
    settings = decoding(method="beam", beams=V**4, length_penalty=penalty, min_tokens=min_tokens)
    actual = model.generate(settings, n_best=345)
    for example in range(2):
        expected = hypotheses(model, example, settings)
        assert len(expected) == (341 if not min_tokens else 336)
        assert_found([x[example] for x in actual], expected)


@pytest.mark.parametrize(
    "penalty, min_tokens, n_best", [(0.0, 3, 1), (-2.0, 0, 2), pytest.param(3.0, 0, 1, marks=pytest.mark.full)]
)
def test_early_stopping_never_changes_a_beam_search(penalty, min_tokens, n_best):
    model = Recurrent(examples=24, seed=1)
    settings = decoding(method="beam", beams=3, max_tokens=7, length_penalty=penalty, min_tokens=min_tokens)
    actual = model.generate(settings, n_best=n_best)
    for example in range(24):
        assert_found([x[example] for x in actual], plain_beam_search(model, example, settings)[:n_best])


GREEDY = {
    "greedy": dict(min_tokens=1),
    "one beam": dict(method="beam", beams=1),
    "no temperature": dict(method="sample", temperature=1e-6, min_tokens=1),
}


@pytest.mark.parametrize("setting", ["greedy", "one beam", pytest.param("no temperature", marks=pytest.mark.full)])
def test_greedy_takes_the_likeliest_token_until_the_end_of_text(setting):
    model = Recurrent(examples=16, seed=2)
    settings = decoding(max_tokens=6, length_penalty=0.5, **GREEDY[setting])
    actual = model.generate(settings)
    for example in range(16):
        best = likeliest(model, example, settings)
        score = sum(model.log_probs(example, best[:i])[best[i]] for i in range(len(best))) / len(best) ** 0.5
        assert_found([x[example : example + 1] for x in actual], [(score, best)])
    assert len(set(np.asarray(actual.lengths))) > 1


def likeliest(model, example, settings):
    """Greedy search as a person would write it."""
    sequence = []
    while len(sequence) < settings.max_tokens and EOS not in sequence:
        early = (np.arange(V) == EOS) & (len(sequence) < settings.min_tokens)
        sequence.append(int(np.argmax(np.where(early, -np.inf, model.log_probs(example, sequence)))))
    return sequence


def test_a_beam_search_of_one_beam_is_greedy():
    """Without a length penalty: what goes on after an end cannot become likelier."""
    model = Recurrent(examples=16, seed=2)
    settings = decoding(max_tokens=6, method="beam", beams=1, length_penalty=0.0)
    run = jax.jit(lambda *start: beam_search(model.step, *start, settings, take=take_rows, n_best=1))
    actual = run(*model.start())
    for example in range(16):
        best = likeliest(model, example, settings)
        assert list(actual.tokens[example, 0]) == best + [PAD] * (6 - len(best))


@pytest.mark.parametrize("method", [pytest.param("sample", marks=pytest.mark.full), "beam"])
def test_other_examples_and_a_mesh_change_nothing(method):
    model = Recurrent(examples=8, seed=3)
    settings = decoding(method=method, max_tokens=5, temperature=1.5, top_p=0.95, beams=3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    put = lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec("data") if x.ndim else PartitionSpec()))
    inputs = jax.tree.map(put, (*model.start(), jax.random.split(jax.random.key(1), 8)))
    run = jax.jit(lambda *inputs: generate(model.step, *inputs[:2], settings, inputs[2])).lower(*inputs).compile()
    sharded, part = run(*inputs), model.generate(settings, rows=[4, 1])
    some = np.array([4, 1])
    np.testing.assert_array_equal(part.tokens, sharded.tokens[some])
    np.testing.assert_array_equal(part.lengths, sharded.lengths[some])
    np.testing.assert_allclose(part.scores, sharded.scores[some], rtol=1e-5)
    # What travels is logits or scores, [8, at most 3 * V], as XLA's top-k wants every row on every device; no carry.
    travels = re.findall(r"= (\S+) (?:all-gather|all-to-all|collective-permute)\(", run.as_text())
    assert all(re.match(r"f32\[8,(?!9)\d+\]", shape) for shape in travels), travels


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_the_loop_ends_when_all_are_finished(method):
    calls = []

    def step(carry, tokens):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tile(jnp.where(jnp.arange(V) == EOS, 0.0, -30.0), (len(tokens), 1)), carry

    logits = jnp.tile(jnp.where(jnp.arange(V) == 1, 0.0, -30.0), (2, 1))
    settings = decoding(method=method, max_tokens=50, beams=2)
    actual = jax.jit(lambda logits: generate(step, logits, {}, settings))(logits)
    jax.effects_barrier()
    np.testing.assert_array_equal(actual.tokens[:, :3], [[1, EOS, PAD]] * 2)
    assert len(calls) == 1


def brute_truncate(logits, top_k, top_p):
    """The set of tokens that may be sampled, token by token."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[: top_k or len(order)]
    weights = np.exp([float(logits[token]) for token in order])
    kept, reached = [], 0.0
    for token, share in zip(order, weights / weights.sum(), strict=True):
        if reached >= top_p:
            break
        kept.append(token)
        reached += share
    return sorted(kept)


@pytest.mark.parametrize("top_k, top_p", [(0, 0.55), (4, 0.7), pytest.param(3, 1.0, marks=pytest.mark.full)])
def test_truncation_keeps_the_likeliest_tokens(top_k, top_p):
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(0, 2, (30, 9)), rng.integers(0, 3, (30, 9))])  # the latter with many ties
    actual = jax.jit(truncate, static_argnums=(1, 2))(jnp.asarray(logits, jnp.float32), top_k, top_p)
    for row, expected in zip(np.asarray(actual), logits, strict=True):
        kept = brute_truncate(expected, top_k, top_p)
        assert list(np.flatnonzero(np.isfinite(row))) == kept
        np.testing.assert_array_equal(row[kept], expected[kept].astype(np.float32))


def test_samples_follow_the_tempered_truncated_distribution():
    logits = np.array([1.0, 0.2, -0.5, 0.9, -3.0, 0.6])
    settings = decoding(method="sample", max_tokens=1, temperature=0.7, top_k=5, top_p=0.9, pad_id=0)
    kept = brute_truncate(logits / 0.7, 5, 0.9)
    share = np.where(np.isin(range(6), kept), np.exp(logits / 0.7), 0)
    share /= share.sum()
    count = 5000
    batch = jnp.tile(jnp.asarray(logits, jnp.float32), (count, 1))
    run = jax.jit(lambda batch, keys: generate(lambda carry, tokens: (batch, carry), batch, {}, settings, keys))
    actual = run(batch, jax.random.split(jax.random.key(0), count))
    tokens = np.asarray(actual.tokens[:, 0])
    seen = np.bincount(tokens, minlength=6)
    assert (seen[share == 0] == 0).all() and (share == 0).any()
    chi2 = ((seen - count * share)[kept] ** 2 / (count * share)[kept]).sum()
    assert chi2 < 16.3  # 99.9 % of 3 degrees of freedom
    # The score is the model's own, neither tempered nor truncated.
    np.testing.assert_allclose(actual.scores, (logits - np.log(np.exp(logits).sum()))[tokens], rtol=1e-5)


@pytest.mark.full
def test_samples_of_an_example_are_independent_and_sorted():
    model = Recurrent(examples=3, seed=6)
    settings = decoding(method="sample", max_tokens=6, min_tokens=3, temperature=3.0)
    one, many = model.generate(settings), model.generate(settings, n_best=16)
    assert many.tokens.shape == (3, 16, 6)
    assert (np.diff(many.scores, axis=1) <= 0).all()
    for example in range(3):
        sequences = {tuple(row) for row in np.asarray(many.tokens[example])}
        assert len(sequences) > 12
        assert tuple(np.asarray(one.tokens[example])) in sequences  # the first is the same
        for row, length, score in zip(*(np.asarray(x[example]) for x in many), strict=True):
            total = sum(model.log_probs(example, row[:i])[row[i]] for i in range(length))
            np.testing.assert_allclose(score, total / length, rtol=1e-5)


@pytest.mark.parametrize("axis, examples", [(0, 3), (1, 3), (1, None)])
def test_rows_are_taken_along_their_axis(axis, examples):
    rows = np.array([1, 0, 1, 2, 2, 2, 5, 4, 4])
    cache = np.random.default_rng(0).standard_normal((6, 2, 3)).swapaxes(0, axis)
    carry = {"cache": jnp.asarray(cache), "position": jnp.int32(3)}
    actual = jax.jit(take_rows, static_argnums=(2, 3))(carry, jnp.asarray(rows), axis, examples)
    np.testing.assert_array_equal(actual["cache"], np.take(cache.astype(np.float32), rows, axis))
    assert actual["position"] == 3


@pytest.mark.full
def test_a_step_may_reorder_its_own_carry():
    """A cache with its rows elsewhere than at axis 0 and a `take` of its own give the same hypotheses."""
    model = Recurrent(examples=4, seed=7)
    settings = decoding(method="beam", beams=3, max_tokens=6)

    def step(carry, tokens):
        logits, carry = model.step({"hidden": carry.T, "count": 0}, tokens)
        return logits, carry["hidden"].T

    logits, carry = model.start()
    take = functools.partial(take_rows, axis=1)
    actual = jax.jit(lambda *start: generate(step, *start, settings, take=take))(logits, carry["hidden"].T)
    for example in range(4):
        best = plain_beam_search(model, example, settings)[:1]
        assert_found([x[example : example + 1] for x in actual], best)


@pytest.mark.parametrize(
    "field, value",
    [
        *(("max_tokens", 0), ("min_tokens", 5), ("temperature", -1.0), ("temperature", float("nan")), ("top_k", -1)),
        *(("top_p", 1.5), ("top_p", 0.0), ("beams", 0), ("length_penalty", 99.0), ("eos_id", -1), ("pad_id", -1)),
        *(("temperature", 1e-7), ("method", "beams"), ("eos_id", 5), ("pad_id", 7)),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(field, value):
    with pytest.raises(UserError, match=rf"^decoding\.{field}=.*{value}[^\n]+$"):
        generate(lambda carry, tokens: None, jnp.zeros((1, V)), {}, decoding(**{field: value}))


@pytest.mark.parametrize(
    "settings, n_best, message",
    [
        (dict(method="sample"), None, "keys=None"),
        (dict(method="beam", beams=3), 4, "n_best=4 .* 1 to 3"),
        (dict(method="greedy"), 2, "n_best=2 .* 1 to 1"),
    ],
)
def test_what_the_method_cannot_do_is_told(settings, n_best, message):
    with pytest.raises(UserError, match=message):
        generate(lambda carry, tokens: None, jnp.zeros((1, V)), {}, decoding(**settings), n_best=n_best)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_suppressed_tokens_are_not_chosen(method):
    """Greedily the likeliest of the others; what is suppressed at the beginning alone may come later."""
    model = Recurrent(4)
    settings = decoding(method=method, max_tokens=6, suppress_tokens=(1,), begin_suppress_tokens=(EOS, 0))
    tokens = np.asarray(model.generate(settings).tokens)
    assert not (tokens == 1).any() and not np.isin(tokens[:, 0], (EOS, 0)).any()
    for example in range(4 if method == "greedy" else 0):
        history = []
        while len(history) < 6 and (not history or history[-1] != EOS):
            scores = model.log_probs(example, history)
            scores[[1, *([] if history else [EOS, 0])]] = -np.inf
            history.append(int(scores.argmax()))
        assert tokens[example, : len(history)].tolist() == history
    assert np.isin(tokens[:, 1:], (EOS, 0)).any()


def test_suppressed_tokens_that_are_none():
    model = Recurrent(1)
    with pytest.raises(UserError, match="decoding.suppress_tokens=5 is no token of this model"):
        model.generate(decoding(suppress_tokens=(5,)))
    with pytest.raises(UserError, match="leave no token"):
        model.generate(decoding(suppress_tokens=(0, 1, 2), begin_suppress_tokens=(3, 4)))
