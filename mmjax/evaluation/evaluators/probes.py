"""Probes of frozen features: linear probe, k nearest neighbours, few-shot episodes. NumPy and SciPy."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from mmjax.errors import UserError, validate_choice
from mmjax.metrics import logistic_regression
from mmjax.metrics.classification import classification_metrics, label_rank_metrics, label_ranks
from mmjax.metrics.exact_dot import blocks, top_matches

_BLOCK = 4096
VOTES = ("weighted", "plain")
HEADS = ("centroid", "logistic")


@dataclasses.dataclass(frozen=True)
class LinearProbeResult:
    """The outcome of `linear_probe`.

    Attributes:
      metrics: of the test examples, as `metrics.classification.classification_metrics`.
      inverse_l2: the chosen inverse strength, scikit-learn's C: the loss is the sum of cross-entropies times C plus
        half the squared norm of the weights.
      validation_accuracy: top-1 of the held-out examples for every C tried.
      converged: whether the last fit met its tolerance.
      predictions: [M] the class of every test example.
    """

    metrics: dict[str, float]
    inverse_l2: float
    validation_accuracy: dict[float, float]
    converged: bool
    predictions: np.ndarray


def linear_probe(
    train_features: Float[np.ndarray, "N D"],
    train_labels: Integer[np.ndarray, " N"],
    test_features: Float[np.ndarray, "M D"],
    test_labels: Integer[np.ndarray, " M"],
    *,
    classes: int,
    exponents: Sequence[int | float] = (-6, -4, -2, 0, 2, 4, 6),
    refinements: int = 4,
    validation: float = 0.1,
    max_iterations: int = 1000,
    seed: int = 0,
) -> LinearProbeResult:
    """Multinomial logistic regression on features as they are, with CLIP's search for the L2 penalty.

    As Radford et al. 2021, section A.3: C = 10**exponent is tried on a coarse grid, then at half the distance on both
    sides of the best, and so on (four times make eight steps a decade); chosen by accuracy on a part held out of the
    training examples, the stronger penalty among equals; then fitted to all of them. L-BFGS, at most 1,000 iterations,
    each fit of the search beginning at that of the next stronger penalty tried; see `logistic`.

    Args:
      train_features, train_labels: to fit and to choose C with; labels in [0, classes).
      test_features, test_labels: to measure with, once.
      classes: C; one without training examples is never predicted.
      exponents: the coarse grid, evenly spaced.
      refinements: how often the distance is halved.
      validation: the share of every class's training examples that is held out; at least one stays to train with.
      max_iterations: of L-BFGS, each fit.
      seed: of the split.

    Raises:
      UserError: for a validation share outside (0, 1), or with too few examples or classes to hold any out.
      ValueError: for shapes or labels that do not fit, or features that are not finite.
    """
    if not 0 < validation < 1:
        raise UserError(f"validation={validation}: the share held out lies between 0 and 1, such as 0.1")
    _check(train_features, train_labels, classes)
    _check(test_features, test_labels, classes)
    held = held_out(train_labels, validation, seed=seed)
    if not held.any() or len(np.unique(train_labels)) < 2:
        raise UserError(
            f"train_labels: {len(train_labels)} examples of {len(np.unique(train_labels))} classes leave nothing to "
            "choose by; a probe needs two classes and two examples in one"
        )
    search = _PenaltySearch(train_features, train_labels, held, classes, max_iterations)
    grid = sorted(float(exponent) for exponent in exponents)
    best = search.best(grid)
    step = grid[1] - grid[0] if len(grid) > 1 else 0.0
    for _ in range(refinements if step else 0):
        step /= 2
        best = search.best([x for x in (best - step, best, best + step) if grid[0] <= x <= grid[-1]])

    final = logistic_regression.fit(train_features, train_labels, inverse_l2=10.0**best, max_iterations=max_iterations)
    ranks, predictions = _evaluate(final, test_features, test_labels, classes)
    return LinearProbeResult(
        metrics=label_rank_metrics(ranks, test_labels, classes),
        inverse_l2=10.0**best,
        validation_accuracy={10.0**exponent: search.accuracies[exponent] for exponent in sorted(search.accuracies)},
        converged=final.converged,
        predictions=predictions,
    )


class _PenaltySearch:
    """Validation accuracies of fits by the exponent of C; each is fitted once.

    Args:
      features, labels: of the training examples.
      held: bool [N], the examples to validate with; the others are fitted to.
      classes: C.
      max_iterations: of L-BFGS, each fit.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, held: np.ndarray, classes: int, max_iterations: int):
        self.train = features[~held], labels[~held]
        self.validation = features[held], labels[held]
        self.classes, self.max_iterations = classes, max_iterations
        self.models: dict[float, logistic_regression.Logistic] = {}
        self.accuracies: dict[float, float] = {}

    def best(self, exponents: Sequence[float]) -> float:
        """The exponent of the highest accuracy; the stronger penalty among equals."""
        for exponent in exponents:
            if exponent not in self.models:
                self._fit(exponent)
        return max(exponents, key=lambda exponent: (self.accuracies[exponent], -exponent))

    def _fit(self, exponent: float) -> None:
        # Never from a weaker penalty's: what the tolerance leaves of its large weights would outweigh small ones.
        stronger = max((other for other in self.models if other < exponent), default=-math.inf)
        settings = dict(inverse_l2=10.0**exponent, max_iterations=self.max_iterations)
        model = logistic_regression.fit(*self.train, start=self.models.get(stronger), **settings)
        _, predictions = _evaluate(model, *self.validation, self.classes)
        self.models[exponent] = model
        self.accuracies[exponent] = float((predictions == self.validation[1]).mean())


def held_out(labels: Integer[np.ndarray, " N"], share: float, *, seed: int) -> Bool[np.ndarray, " N"]:
    """Which examples to hold out: the rounded share of every class, at least one, never a class's last."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
    return held


@dataclasses.dataclass(frozen=True)
class KnnResult:
    """The outcome of `knn`.

    Attributes:
      metrics: for every k `acc1@K`, `acc5@K` and `mean_per_class_recall@K`.
      predictions: by k, [M] the class of every test example.
    """

    metrics: dict[str, float]
    predictions: dict[int, np.ndarray]


def knn(
    train_features: Float[np.ndarray, "N D"],
    train_labels: Integer[np.ndarray, " N"],
    test_features: Float[np.ndarray, "M D"],
    test_labels: Integer[np.ndarray, " M"],
    *,
    classes: int,
    ks: Sequence[int] = (10, 20, 100, 200),
    vote: str = "weighted",
    temperature: float = 0.07,
) -> KnnResult:
    """Classification by the k most similar training examples, by cosine; exact, see `exact_dot.top_matches`.

    Args:
      train_features, train_labels: the neighbours; labels in [0, classes).
      test_features, test_labels: to classify.
      classes: C.
      ks: numbers of neighbours; more than there are means all.
      vote: `weighted`, by exp(cos / temperature) as DINO (Caron et al. 2021), or `plain`, one neighbour one vote. Among
        equal votes the lower class comes first.
      temperature: of the weighted vote.

    Raises:
      UserError: for an unknown vote, or a k below 1.
      ValueError: for shapes or labels that do not fit, or features that are not finite.
    """
    validate_choice("vote", vote, VOTES)
    if not ks or min(ks) < 1:
        raise UserError(f"ks={list(ks)}: wants numbers of neighbours from 1 up")
    _check(train_features, train_labels, classes)
    _check(test_features, test_labels, classes)
    gallery = _unit(train_features)
    ranks, predictions = ({k: np.empty(len(test_labels), np.int64) for k in ks} for _ in range(2))
    for rows in blocks(len(test_labels), _BLOCK):
        neighbours, cosines = top_matches(_unit(test_features[rows]), gallery, max(ks))
        # A common factor changes no vote, and keeps exp() of a low temperature in range.
        away = cosines.astype(np.float64) - cosines[:, :1]
        weights = np.exp(away / temperature) if vote == "weighted" else np.ones_like(away)
        voted, examples = train_labels[neighbours], np.arange(len(neighbours))[:, None]
        for k in ks:
            votes = np.zeros((len(neighbours), classes))
            np.add.at(votes, (examples, voted[:, :k]), weights[:, :k])
            ranks[k][rows], predictions[k][rows] = label_ranks(votes, test_labels[rows]), votes.argmax(axis=1)
    metrics_of_k = {k: label_rank_metrics(ranks[k], test_labels, classes) for k in ks}
    metrics = {f"{name}@{k}": value for k, values in metrics_of_k.items() for name, value in values.items()}
    return KnnResult(metrics, predictions)


def few_shot_metrics(
    features: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    head: str = "centroid",
    inverse_l2: float = 1.0,
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy in random n-way k-shot episodes (Vinyals et al. 2016).

    Args:
      features, labels: to draw episodes from.
      ways: classes in an episode.
      shots: examples to learn a class from.
      queries: other examples of each class to classify.
      episodes: how many; each is drawn from (seed, its number).
      head: `centroid`, the most similar mean of a class's unit features (Snell et al. 2017, with cosines), or
        `logistic`, logistic regression on unit features.
      inverse_l2: scikit-learn's C, of the logistic head.
      seed: of the draws.

    Returns:
      `acc1`, the mean over episodes, and `acc1_interval95`, half the width of its 95 % interval: 1.96 standard errors
      over episodes, as the few-shot literature reports it.

    Raises:
      UserError: for an unknown head, counts below 1 (two ways, two episodes), or fewer classes with enough examples.
      ValueError: for shapes that do not fit or features that are not finite.
    """
    validate_choice("head", head, HEADS)
    for name, value, least in (
        ("ways", ways, 2),
        ("shots", shots, 1),
        ("queries", queries, 1),
        ("episodes", episodes, 2),
    ):
        if value < least:
            raise UserError(f"{name}={value}: wants at least {least}")
    _check(features, labels, None)
    names, counts = np.unique(labels, return_counts=True)
    names = names[counts >= shots + queries]
    if len(names) < ways:
        raise UserError(
            f"ways={ways}: only {len(names)} classes have the {shots} + {queries} examples of an episode; "
            "choose fewer ways, shots or queries"
        )
    unit, members = _unit(features), {name: np.flatnonzero(labels == name) for name in names.tolist()}
    accuracies = []
    for episode in range(episodes):
        rng = np.random.default_rng([seed, episode])
        chosen = rng.choice(names, ways, replace=False).tolist()
        drawn = np.stack([rng.choice(members[name], shots + queries, replace=False) for name in chosen])
        support, queried = unit[drawn[:, :shots]], unit[drawn[:, shots:]].reshape(ways * queries, -1)
        truth = np.repeat(np.arange(ways), queries)
        if head == "centroid":
            scores = queried @ _unit(support.mean(axis=1)).T
        else:
            rows, support_labels = support.reshape(ways * shots, -1), np.repeat(np.arange(ways), shots)
            scores = logistic_regression.fit(rows, support_labels, inverse_l2=inverse_l2).scores(queried, ways)
        accuracies.append(classification_metrics(scores, truth)["acc1"])
    deviation = np.std(accuracies, ddof=1)
    return {"acc1": float(np.mean(accuracies)), "acc1_interval95": float(1.96 * deviation / np.sqrt(episodes))}


def _evaluate(
    model: logistic_regression.Logistic, features: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The 1-based rank of every example's class, and its predicted class."""
    ranks, predictions = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for rows in blocks(len(labels), _BLOCK):
        scores = model.scores(features[rows], classes)
        ranks[rows], predictions[rows] = label_ranks(scores, labels[rows]), scores.argmax(axis=1)
    return ranks, predictions


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


def _check(features: np.ndarray, labels: np.ndarray, classes: int | None) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(f"features {features.shape} and labels {labels.shape} should be [N, D] and [N] with N > 0")
    if not np.isfinite(features).all():
        raise ValueError("features are not finite: they hold NaN or infinity")
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        raise ValueError(f"labels lie in [{labels.min()}, {labels.max()}], outside [0, {classes or '...'})")
