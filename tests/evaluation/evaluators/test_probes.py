"""Probes against scikit-learn on the same features."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from mmjax.errors import UserError
from mmjax.evaluation.evaluators import probes


def clusters(seed, count, classes=5, width=12, noise=1.6):
    """Features of classes around fixed centres."""
    centres = np.random.default_rng(0).normal(size=(classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (centres[labels] + noise * rng.normal(size=(count, width))).astype(np.float32), labels


TRAIN, TEST = clusters(1, 300), clusters(2, 200)


def test_linear_probe_is_logistic_regression_with_the_best_of_a_sweep():
    result = probes.linear_probe(*TRAIN, *TEST, classes=6, exponents=(-4, -2, 0, 2), refinements=2)
    model = LogisticRegression(C=result.inverse_l2, max_iter=1000).fit(*TRAIN)
    predictions = model.predict(TEST[0])
    assert result.metrics["acc1"] == np.mean(predictions == TEST[1])
    assert result.metrics["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(TEST[1], predictions))
    assert result.metrics["acc1"] < result.metrics["acc5"] == 1 and result.converged

    held = probes.held_out(TRAIN[1], 0.1, seed=0)
    for inverse_l2, accuracy in result.validation_accuracy.items():
        model = LogisticRegression(C=inverse_l2, max_iter=1000).fit(TRAIN[0][~held], TRAIN[1][~held])
        # Fits begin where others ended, so they agree to the solver's tolerance.
        assert accuracy == pytest.approx(model.score(TRAIN[0][held], TRAIN[1][held]), abs=1.5 / held.sum())
    best = max(result.validation_accuracy.values())
    assert result.validation_accuracy[result.inverse_l2] == best
    assert {1e-4, 1e-2, 1.0, 1e2} < set(result.validation_accuracy)
    np.testing.assert_array_equal(result.predictions, predictions)
    again = probes.linear_probe(*TRAIN, *TEST, classes=6, exponents=(-4, -2, 0, 2), refinements=2)
    assert (again.metrics, again.validation_accuracy) == (result.metrics, result.validation_accuracy)


def test_a_probe_of_two_classes_and_of_labels_it_never_saw():
    features, labels = clusters(3, 120, classes=2)
    result = probes.linear_probe(
        features[:80], labels[:80] * 3, features[80:], labels[80:] * 3, classes=5, refinements=0
    )
    assert 0.5 < result.metrics["acc1"] <= 1
    unseen = probes.linear_probe(features[:80], labels[:80], features[80:], labels[80:] + 2, classes=5, refinements=0)
    assert unseen.metrics["acc1"] == 0


def test_the_held_out_part_is_of_every_class_and_never_all_of_it():
    labels = np.repeat([0, 1, 2, 5], [1, 2, 10, 100])
    held = probes.held_out(labels, 0.25, seed=1)
    np.testing.assert_array_equal(np.bincount(labels, weights=held), [0, 1, 2, 0, 0, 25])
    assert (held == probes.held_out(labels, 0.25, seed=1)).all() and (
        held != probes.held_out(labels, 0.25, seed=2)
    ).any()


@pytest.mark.parametrize("vote", probes.VOTES)
def test_neighbours_vote_as_in_scikit_learn(vote):
    result = probes.knn(*TRAIN, *TEST, classes=6, ks=(1, 7, 50, 1000), vote=vote)
    predicted, result = result.predictions, result.metrics
    weights = "uniform" if vote == "plain" else lambda distance: np.exp((1 - distance) / 0.07)
    for k in (1, 7, 50, 1000):
        model = KNeighborsClassifier(min(k, 300), weights=weights, metric="cosine", algorithm="brute").fit(*TRAIN)
        predictions = model.predict(TEST[0])
        np.testing.assert_array_equal(predicted[k], predictions)
        assert result[f"acc1@{k}"] == np.mean(predictions == TEST[1])
        assert result[f"mean_per_class_recall@{k}"] == pytest.approx(balanced_accuracy_score(TEST[1], predictions))
        assert result[f"acc5@{k}"] >= result[f"acc1@{k}"]
    assert len({result[f"acc1@{k}"] for k in (1, 7, 50)}) > 1


def test_equal_neighbours_are_taken_in_order_and_equal_votes_go_to_the_lower_class():
    same, labels = np.ones((6, 3), np.float32), np.array([4, 4, 2, 2, 0, 0])
    result = probes.knn(same, labels, same[:1], np.array([4]), classes=5, ks=(3, 4), vote="plain").metrics
    assert result["acc1@3"] == 1 and result["acc1@4"] == 0  # two votes each for 4 and 2


def test_a_sharp_temperature_does_not_overflow():
    result = probes.knn(*TRAIN, *TEST, classes=6, ks=(50,), temperature=1e-4).metrics
    nearest = probes.knn(*TRAIN, *TEST, classes=6, ks=(1,)).metrics
    assert result["acc1@50"] == pytest.approx(nearest["acc1@1"], abs=0.01)


@pytest.mark.parametrize(("head", "episodes"), [("centroid", 50), ("logistic", 8)])
def test_few_shot_episodes_are_what_scikit_learn_makes_of_the_same_draws(head, episodes):
    features, labels = TRAIN
    settings = dict(ways=4, shots=3, queries=5, episodes=episodes, head=head, seed=7)
    result = probes.few_shot_metrics(features, labels, **settings)
    accuracies = []
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    for episode in range(episodes):
        rng = np.random.default_rng([7, episode])
        chosen = rng.choice(np.unique(labels), 4, replace=False)
        drawn = [rng.choice(np.flatnonzero(labels == name), 8, replace=False) for name in chosen]
        support, queried = (
            np.concatenate([unit[members[part]] for members in drawn]) for part in (slice(3), slice(3, 8))
        )
        if head == "logistic":
            model = LogisticRegression(max_iter=1000).fit(support, np.repeat(range(4), 3))
        else:
            # Among unit vectors the nearest has the highest cosine.
            centres = support.reshape(4, 3, -1).mean(axis=1)
            model = KNeighborsClassifier(1).fit(centres / np.linalg.norm(centres, axis=1, keepdims=True), range(4))
        accuracies.append(model.score(queried, np.repeat(range(4), 5)))
    assert result["acc1"] == pytest.approx(np.mean(accuracies), abs=0.005)
    assert result["acc1_interval95"] == pytest.approx(1.96 * np.std(accuracies, ddof=1) / episodes**0.5, rel=0.05)
    assert result == probes.few_shot_metrics(features, labels, **settings)
    assert result != probes.few_shot_metrics(features, labels, **settings | {"seed": 8})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probes.linear_probe(*TRAIN, *TEST, classes=6, validation=1.0), "validation=1.0"),
        (lambda: probes.linear_probe(TRAIN[0][:1], TRAIN[1][:1], *TEST, classes=6), "leave nothing to choose by"),
        (lambda: probes.knn(*TRAIN, *TEST, classes=6, vote="weigthed"), "did you mean 'weighted'"),
        (lambda: probes.knn(*TRAIN, *TEST, classes=6, ks=(0,)), "from 1 up"),
        (lambda: probes.few_shot_metrics(*TRAIN, ways=6), "only 5 classes have the 1 \\+ 15 examples"),
        (lambda: probes.few_shot_metrics(*TRAIN, shots=0), "shots=0: wants at least 1"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(UserError, match=message):
        call()
