"""Classification and VQA losses against float64 brute force (and PyTorch's, in the full tests)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mmjax.objectives import token_loss
from mmjax.objectives.classification import answer_loss, classification_loss, modality_dropout

BATCH, CLASSES = 5, 7


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits = (4 * rng.standard_normal((BATCH, CLASSES))).astype(np.float32)
    labels = rng.integers(0, CLASSES, BATCH).astype(np.int32)
    labels[0] = logits[0].argmax()
    scores = rng.choice([0.0, 0.0, 0.3, 0.6, 0.9, 1.0], (BATCH, CLASSES)).astype(np.float32)
    return logits, labels, scores, np.array([True, True, False, True, True])


@pytest.mark.parametrize(("smoothing", "some"), [(0.0, False), (0.1, True)])
def test_classification(smoothing, some):
    logits, labels, _, mask = example()
    some_mask, mask = (jnp.asarray(mask), mask) if some else (None, np.ones(BATCH, bool))
    wanted = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    loss = lambda x, labels, some_mask: token_loss.mean(classification_loss(x, labels, some_mask, smoothing))
    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(logits, labels, some_mask)
    assert float(value) == pytest.approx(-(wanted * log_p).sum(-1)[mask].mean(), rel=1e-6)
    np.testing.assert_allclose(gradient, (np.exp(log_p) - wanted) * mask[:, None] / mask.sum(), atol=1e-6)
    accuracy = (logits.argmax(-1) == labels)[mask].mean()
    assert float(metrics["class_accuracy"]) == pytest.approx(accuracy) and accuracy > 0


@pytest.mark.parametrize("some", [False, True])
def test_answers_are_summed(some):
    logits, _, scores, mask = example()
    some_mask, mask = (jnp.asarray(mask), mask) if some else (None, np.ones(BATCH, bool))
    x = logits.astype(np.float64)
    losses = -scores * scipy.special.log_expit(x) - (1 - scores) * scipy.special.log_expit(-x)
    loss = lambda x, scores, some_mask: token_loss.mean(answer_loss(x, scores, some_mask))
    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(logits, scores, some_mask)
    assert float(value) == pytest.approx(losses.mean(-1)[mask].mean() * CLASSES, rel=1e-6)
    np.testing.assert_allclose(gradient, (scipy.special.expit(x) - scores) * mask[:, None] / mask.sum(), atol=1e-6)
    reached = scores[np.arange(BATCH), logits.argmax(-1)][mask].mean()
    assert float(metrics["vqa_accuracy"]) == pytest.approx(reached) and 0 < reached < 1


def test_answers_of_a_sure_model_stay_finite():
    """Logits of 1000: the loss is 1000 where it is wrong and 0 where it is right."""
    sums = jax.jit(answer_loss)(np.array([[1000.0, -1000.0]], np.float32), np.zeros((1, 2), np.float32))
    assert float(sums.total[0]) == 1000.0


@pytest.mark.full
def test_pytorch_agrees():
    import torch

    logits, labels, scores, _ = example()
    torch_logits, functional = torch.tensor(logits), torch.nn.functional
    theirs = functional.cross_entropy(torch_logits, torch.tensor(labels).long(), label_smoothing=0.1)
    ours, _ = token_loss.mean(classification_loss(jnp.asarray(logits), jnp.asarray(labels), None, 0.1))
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-6)
    # As ViLT's compute_vqa: the mean, times the number of answers.
    theirs = functional.binary_cross_entropy_with_logits(torch_logits, torch.tensor(scores)) * CLASSES
    ours, _ = token_loss.mean(answer_loss(jnp.asarray(logits), jnp.asarray(scores)))
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-6)


def test_modality_dropout_hides_at_its_rate_and_never_the_last_one():
    rows, rate = 6000, 0.4
    present = np.random.default_rng(0).random((rows, 3)) < 0.7
    present[:2000] = True
    keys = jax.random.split(jax.random.key(0), rows)
    run = jax.jit(lambda present, keys: modality_dropout(present, rate, keys))
    kept = np.asarray(run(present, keys))
    assert not (kept & ~present).any()
    np.testing.assert_array_equal(kept.any(axis=1), present.any(axis=1))
    # Of three that are there: each stays with probability 1 - rate, or as the one that is saved when all would go.
    full = kept[:2000]
    saved = rate**3
    expected = {3: (1 - rate) ** 3, 2: 3 * rate * (1 - rate) ** 2, 1: 3 * rate**2 * (1 - rate) + saved}
    for count, share in expected.items():
        assert abs((full.sum(axis=1) == count).mean() - share) < 4.5 * (share * (1 - share) / 2000) ** 0.5
    stays = 1 - rate + saved / 3
    assert abs(full.mean(axis=0) - stays).max() < 4.5 * (stays * (1 - stays) / 2000) ** 0.5
    # An example does not see its batch, and without keys or rate nothing is hidden.
    np.testing.assert_array_equal(run(present[::-1], keys[::-1]), kept[::-1])
    available = jnp.asarray(present)
    assert modality_dropout(available, rate, None) is available and modality_dropout(available, 0.0, keys) is available
