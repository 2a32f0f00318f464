"""BERT's 80/10/10 and its loss; MAE's patches, mask and regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mmjax.objectives import masked_modelling, token_loss

PAD, BOS, EOS, MASK, VOCAB = 0, 1, 2, 7, 30
SETTINGS = dict(vocab_size=VOCAB, mask_id=MASK, special_ids=(PAD, BOS, EOS, 29))
LENGTH, ROWS = 12, 4000


def texts(words, rows):
    """`words` ordinary tokens between bos and eos, then padding."""
    rng = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(VOCAB), [PAD, BOS, EOS, MASK, 29])
    text = np.full((rows, LENGTH), PAD, np.int32)
    text[:, 0], text[:, words + 1] = BOS, EOS
    text[:, 1 : words + 1] = rng.choice(ordinary, (rows, words))
    return text, np.tile(np.arange(LENGTH) < words + 2, (rows, 1))


@pytest.fixture(scope="module")
def masking():
    return jax.jit(lambda text, mask, keys: masked_modelling.mask_tokens(text, mask, keys, **SETTINGS))


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def test_shares_are_15_80_10_10(masking):
    """Within four standard errors, over 40,000 tokens; and nothing special is ever chosen or put in."""
    text, mask = texts(10, ROWS)
    inputs, chosen = map(np.asarray, masking(text, mask, keys_of(ROWS)))
    ordinary = ~np.isin(text, [PAD, BOS, EOS, MASK, 29])
    assert ordinary.sum() == 40_000 and not (chosen & ~ordinary).any()
    np.testing.assert_array_equal(inputs[~chosen], text[~chosen])
    # One of a text's ten is chosen where none would be, with a probability of 0.85^10.
    for result, expected, count in [
        (chosen.sum() / 40_000, 0.15 + 0.85**10 / 10, 40_000),
        ((inputs == MASK)[chosen].mean(), 0.8, chosen.sum()),
        # A random token is the old one once in 25.
        (((inputs != MASK) & (inputs != text))[chosen].mean(), 0.1 * 24 / 25, chosen.sum()),
        ((inputs == text)[chosen].mean(), 0.1 + 0.1 / 25, chosen.sum()),
    ]:
        assert abs(result - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
    put_in = inputs[chosen & (inputs != MASK) & (inputs != text)]
    assert set(put_in) == set(range(VOCAB)) - {PAD, BOS, EOS, MASK, 29}


def test_a_text_with_a_word_always_has_one_to_predict(masking):
    text, mask = texts(1, ROWS)
    _, chosen = masking(text, mask, keys_of(ROWS))
    np.testing.assert_array_equal(np.asarray(chosen).sum(1), 1)


def test_a_text_without_words_has_none(masking):
    text, mask = texts(0, ROWS)
    inputs, chosen = masking(text, mask, keys_of(ROWS))
    assert not np.asarray(chosen).any()
    np.testing.assert_array_equal(inputs, text)


def test_words_outside_of_the_mask_are_padding(masking):
    text, mask = texts(10, ROWS)
    _, chosen = masking(text, mask & (np.arange(LENGTH) < 5), keys_of(ROWS))
    assert np.asarray(chosen)[:, :5].any() and not np.asarray(chosen)[:, 5:].any()


def test_an_example_is_masked_alike_in_any_batch(masking):
    (text, mask), keys = texts(10, ROWS), keys_of(ROWS)
    order = np.random.default_rng(1).permutation(ROWS)
    straight, mixed = masking(text, mask, keys), masking(text[order], mask[order], keys[order])
    for a, b in zip(straight, mixed, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[order], b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, "rate=0.0 must be"),
        ({"mask_id": VOCAB}, "must lie in"),
        ({"special_ids": range(VOCAB)}, "all 30 ids are special"),
    ],
)
def test_what_cannot_be_masked(changes, message):
    text, mask = texts(3, 2)
    with pytest.raises(ValueError, match=message):
        masked_modelling.mask_tokens(jnp.asarray(text), jnp.asarray(mask), keys_of(2), **SETTINGS | changes)


def test_mlm_loss_is_the_mean_over_masked_tokens():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 5, VOCAB)).astype(np.float32)
    targets = rng.integers(0, VOCAB, (3, 5)).astype(np.int32)
    mask = rng.random((3, 5)) < 0.4
    targets[mask.nonzero()[0][0], mask.nonzero()[1][0]] = logits[mask][0].argmax()
    value, metrics = jax.jit(lambda *x: token_loss.mean(masked_modelling.mlm_loss(*x)))(logits, targets, mask)
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    expected = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    assert float(value) == pytest.approx(expected[mask].mean(), rel=1e-6)
    accuracy = (logits.argmax(-1) == targets)[mask].mean()
    assert float(metrics["mlm_accuracy"]) == pytest.approx(accuracy) and accuracy > 0


@pytest.mark.parametrize(
    ("count", "ratio", "expected"), [(196, 0.75, 147), pytest.param(10, 0.9, 9, marks=pytest.mark.full)]
)
def test_exactly_as_many_patches_are_masked(count, ratio, expected):
    mask = np.asarray(jax.jit(lambda keys: masked_modelling.mask_patches(keys, count, ratio))(keys_of(50)))
    assert mask.shape == (50, count)
    np.testing.assert_array_equal(mask.sum(1), expected)
    # Each place as often as any other, within five standard errors.
    share = expected / count
    assert (abs(mask.mean(0) - share) < 5 * np.sqrt(share * (1 - share) / 50)).all()


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0])
def test_no_patch_or_all_cannot_be_masked(ratio):
    with pytest.raises(ValueError, match="at least one must be masked and one left"):
        masked_modelling.mask_patches(keys_of(2), 9, ratio)


def patches_of(images, side, normalize):
    """Patch by patch in float64; variance as torch.var's default, with n - 1."""
    batch, height, width, _ = images.shape
    result = []
    for image in images.astype(np.float64):
        for top in range(0, height, side):
            for left in range(0, width, side):
                patch = image[top : top + side, left : left + side].reshape(-1)
                result.append((patch - patch.mean()) / (patch.var(ddof=1) + 1e-6) ** 0.5 if normalize else patch)
    return np.array(result).reshape(batch, height * width // side**2, -1)


@pytest.mark.parametrize("normalize", [True, pytest.param(False, marks=pytest.mark.full)])
def test_patch_regression(normalize):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 8, 12, 3)).astype(np.float32)
    prediction = rng.standard_normal((2, 6, 48)).astype(np.float32)
    mask = np.array([[1, 0, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0]], bool)
    targets = patches_of(images, 4, normalize)

    def loss(prediction, images, mask):
        sums = masked_modelling.masked_patch_loss(prediction, images, mask, normalize=normalize)
        return token_loss.mean(sums)[0], (sums.count, masked_modelling.patch_targets(images, 4, normalize))

    (value, (count, result)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(prediction, images, mask)
    assert float(value) == pytest.approx(((prediction - targets) ** 2).mean(-1)[mask].mean(), rel=1e-5)
    np.testing.assert_allclose(result, targets, atol=1e-5)
    np.testing.assert_array_equal(count, [3, 1])
    np.testing.assert_allclose(gradient, 2 * (prediction - targets) * mask[..., None] / 48 / 4, atol=1e-6)


def test_predictions_of_other_patches_are_refused():
    images, mask = jnp.ones((1, 4, 4, 3)), jnp.ones((1, 4), bool)
    for pixels in (10, 27):
        with pytest.raises(ValueError, match="does not fit images of shape"):
            masked_modelling.masked_patch_loss(jnp.zeros((1, 4, pixels)), images, mask)
    with pytest.raises(ValueError, match="do not tile"):
        masked_modelling.patch_targets(images, 3)
