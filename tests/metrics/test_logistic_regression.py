"""Logistic regression against scikit-learn's optimum."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from mmjax.metrics import logistic_regression


def overlapping(classes, count=600, width=10, dtype=np.float64):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, count) * 3  # labels need not be consecutive
    return (rng.normal(size=(3 * classes, width))[labels] + 1.5 * rng.normal(size=(count, width))).astype(dtype), labels


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("inverse_l2", [1e-4, 1e-1, 1e3])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_optimum_is_scikit_learn_s(classes, inverse_l2, dtype, monkeypatch):
    monkeypatch.setattr(logistic_regression, "_SMALL", 0)  # small problems are computed with in float64
    features, labels = overlapping(classes)
    result = logistic_regression.fit(features.astype(dtype), labels, inverse_l2=inverse_l2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=inverse_l2, tol=1e-8, max_iter=10000).fit(features, labels)
    penalty = 0.5 * (model.coef_**2).sum() / (inverse_l2 * len(labels))
    loss = log_loss(labels, model.predict_proba(features)) + penalty
    assert result.converged and result.loss == pytest.approx(loss, abs=1e-5)
    scores = result.scores(features, 3 * classes)
    assert (scores.argmax(axis=1) == model.predict(features)).mean() > 0.99
    logits = scores[:, result.classes]
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(likely / likely.sum(axis=1, keepdims=True), model.predict_proba(features), atol=0.02)
    assert (np.delete(scores, result.classes, axis=1) < logits.min(axis=1, keepdims=True)).all()


def test_a_start_leads_to_the_same_optimum_sooner_and_few_iterations_are_told():
    features, labels = overlapping(5)
    cold = logistic_regression.fit(features, labels, inverse_l2=10.0)
    near = logistic_regression.fit(features, labels, inverse_l2=9.0)
    warm = logistic_regression.fit(features, labels, inverse_l2=10.0, start=near)
    assert warm.loss == pytest.approx(cold.loss, abs=1e-5) and warm.iterations < cold.iterations
    short = logistic_regression.fit(features, labels, inverse_l2=10.0, max_iterations=2)
    assert not short.converged and short.loss > cold.loss and short.iterations == 2
    with pytest.raises(ValueError, match="a classifier needs two"):
        logistic_regression.fit(features, labels * 0, inverse_l2=1.0)
    with pytest.raises(ValueError, match="the start is of"):
        logistic_regression.fit(features[:, 1:], labels, inverse_l2=1.0, start=near)
