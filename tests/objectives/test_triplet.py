"""Triplet loss against loops in float64, and a test for each classical mistake in it."""

import functools

import jax
import numpy as np
import pytest

from mmjax.objectives.triplet import NEGATIVES, triplet_loss

BATCH, WIDTH = 8, 8
SHARED = np.array([[9, 1], [9, 2], [9, 1], [4, 0], [8, 1], [9, 1], [4, 0], [3, 3]], np.uint32)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute_force(image, text, ids, margin, negatives):
    """Row by row, both directions."""
    similarities = image.astype(np.float64) @ text.T.astype(np.float64)
    total = 0.0
    for matrix in (similarities, similarities.T):
        for i in range(len(matrix)):
            paired = matrix[i, i]
            others = [matrix[i, j] for j in range(len(matrix)) if i != j and (ids is None or (ids[i] != ids[j]).any())]
            if not others:
                continue
            if negatives == "sum":
                terms = others
            elif negatives == "hardest":
                terms = [max(others)]
            else:
                terms = [max((s for s in others if s < paired), default=min(others))]
            total += sum(max(0.0, margin + s - paired) for s in terms) / len(matrix) / 2
    return total


@functools.partial(jax.jit, static_argnames="negatives")
def run(image, text, ids, margin, negatives):
    loss = lambda image, text: triplet_loss(image, text, ids, margin=margin, negatives=negatives)[0]
    return jax.value_and_grad(loss, argnums=(0, 1))(image, text)


def value_and_gradients(image, text, ids=None, margin=0.2, negatives="hardest"):
    """Always with ids, so that little is compiled."""
    ids = np.stack([np.arange(len(image)), np.zeros(len(image))], 1).astype(np.uint32) if ids is None else ids
    value, gradients = run(image, text, ids, margin, negatives)
    return float(value), [np.asarray(x) for x in gradients]


def loss_of(*args, **options):
    return value_and_gradients(*args, **options)[0]


def embeddings(how, seed=0):
    """`opposite`: all similarities of different rows are negative; `aligned`: pairs are similar, yet not enough."""
    rng = np.random.default_rng(seed)
    if how == "opposite":
        simplex = unit(np.eye(BATCH) - 1 / BATCH)
        return simplex.astype(np.float32), unit(simplex + 0.05 * rng.standard_normal(simplex.shape)).astype(np.float32)
    image = unit(rng.standard_normal((BATCH, WIDTH)))
    text = rng.standard_normal((BATCH, WIDTH)) + (0 if how == "random" else 2 * image)
    return image.astype(np.float32), unit(text).astype(np.float32)


@pytest.mark.parametrize("ids", [None, SHARED], ids=["unique", "shared"])
@pytest.mark.parametrize("how", ["random", "aligned", "opposite"])
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_value(negatives, how, ids):
    image, text = embeddings(how)
    for margin in (0.2, 1.5):
        expected = brute_force(image, text, ids, margin, negatives)
        assert loss_of(image, text, ids, margin, negatives) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert expected > 0


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradient(negatives):
    image, text = embeddings("random")
    _, gradients = value_and_gradients(image, text, SHARED, negatives=negatives)
    rng = np.random.default_rng(1)
    exact = [image.astype(np.float64), text.astype(np.float64)]
    for _ in range(3):
        steps = [1e-6 * rng.standard_normal(x.shape) for x in exact]
        up, down = ([x + sign * d for x, d in zip(exact, steps, strict=True)] for sign in (1, -1))
        slope = (brute_force(*up, SHARED, 0.2, negatives) - brute_force(*down, SHARED, 0.2, negatives)) / 2
        directional = sum(np.vdot(g, d) for g, d in zip(gradients, steps, strict=True))
        assert directional == pytest.approx(slope, rel=1e-4, abs=1e-10)


# -- the classical mistakes --------------------------------------------------------------------------------------------


def test_sign_perfect_pairs_cost_nothing_and_mismatched_ones_the_most():
    eye = np.eye(4, dtype=np.float32)
    assert loss_of(eye, eye, margin=0.3) == 0.0
    assert loss_of(eye, np.roll(eye, 1, axis=0), margin=0.3) == pytest.approx(1.3)


def test_sign_a_step_down_the_gradient_brings_pairs_together():
    image, text = embeddings("random")
    _, (step, _) = value_and_gradients(image, text)
    assert np.sum((image - 0.1 * step) * text) > np.sum(image * text)


def test_the_hardest_of_negative_similarities_is_not_zero():
    """Two pairs at right angles to nothing: s_ij = -0.5 and s_ii = 0, so the hinge is 1 - 0.5, not 1."""
    image = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    text = np.array([[0, -0.5, 0], [-0.5, 0, 0]], np.float32)
    assert loss_of(image, text, margin=1.0) == pytest.approx(0.5)


def test_the_mean_is_over_rows_not_over_cells():
    """The same rows twice with ids of their own: the hardest negative now is a copy, in each row; not a cell counts."""
    eye = np.eye(4, dtype=np.float32)
    twice = np.concatenate([eye, eye])
    assert loss_of(twice, twice, margin=0.3) == pytest.approx(0.3)
    # With their ids shared the copies are no negatives.
    ids = np.stack([np.arange(8) % 4, np.zeros(8)], 1).astype(np.uint32)
    assert loss_of(twice, twice, ids, margin=0.3) == 0.0


def test_each_direction_compares_with_its_own_pair():
    """Pairs of unequal similarity: column j's hinge is against s_jj, not against the row's pair."""
    image = np.array([[1, 0], [0, 1]], np.float32)
    text = np.array([[0.9, 0.8], [0.0, 0.1]], np.float32)
    # s = [[.9, 0], [.8, .1]]. Rows: [.2 + 0 - .9]+ = 0 and [.2 + .8 - .1]+ = .9; columns: .2 + .8 - .9 and .2 + 0 - .1.
    assert loss_of(image, text) == pytest.approx(0.5 * (0.45 + 0.1))


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_rows_without_a_negative_cost_nothing(negatives):
    image, text = embeddings("random")
    ids = np.ones((BATCH, 2), np.uint32)
    value, gradients = value_and_gradients(image, text, ids, 5.0, negatives)
    assert value == 0.0 and not any(x.any() for x in gradients)


def test_without_ids_every_row_is_its_own_class():
    image, text = embeddings("aligned")
    loss, metrics = jax.jit(triplet_loss)(image, text)
    assert float(loss) == pytest.approx(brute_force(image, text, None, 0.2, "hardest"), abs=1e-6)
    s = image @ text.T
    expected = np.mean([s.argmax(1) == np.arange(BATCH), s.argmax(0) == np.arange(BATCH)])
    assert float(metrics["accuracy"]) == pytest.approx(expected) and 0 < expected < 1


def test_unknown_negatives():
    with pytest.raises(ValueError, match="negatives='hard' is not one of"):
        loss_of(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), negatives="hard")
