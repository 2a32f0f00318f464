"""Metrics of classification and of ranks: pure functions of NumPy arrays, named as in CLIP_benchmark."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

from mmjax.metrics.exact_dot import blocks
from mmjax.metrics.ranks import check_indices

_BLOCK = 2048


def classification_metrics(scores: Float[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> dict[str, float]:
    """Top-1, top-5 and class-balanced accuracy, as CLIP_benchmark names them.

    Args:
      scores: similarity or logits of every example with every class; among equal scores the lower class comes first.
      labels: the right class of every example, in [0, C).

    Returns:
      See `label_rank_metrics`.

    Raises:
      ValueError: for no examples, shapes that do not fit, labels outside [0, C) or scores that are not finite.
    """
    return label_rank_metrics(label_ranks(scores, labels), labels, scores.shape[1])


def label_ranks(scores: Float[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """The 1-based rank of every example's class; see `classification_metrics`."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not scores.size:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} should be [N, C] and [N] with N, C > 0")
    count, classes = scores.shape
    check_indices("labels", labels, classes)
    ranks = np.empty(count, np.int64)
    columns = np.arange(classes)
    for rows in blocks(count, _BLOCK):
        block, label = scores[rows], labels[rows, None]
        if not np.isfinite(block).all():
            raise ValueError("scores are not finite: the embeddings hold NaN or infinity")
        label_scores = np.take_along_axis(block, label, axis=1)
        ranks[rows] = 1 + np.sum((block > label_scores) | ((block == label_scores) & (columns < label)), axis=1)
    return ranks


def label_rank_metrics(
    ranks: Integer[np.ndarray, " N"], labels: Integer[np.ndarray, " N"], classes: int
) -> dict[str, float]:
    """Accuracies from the 1-based rank of every example's class.

    Returns:
      Values in [0, 1]: `acc1`; `acc5`, left out with fewer than five classes (CLIP_benchmark gives NaN there, which
      JSON cannot hold); `mean_per_class_recall`, the mean of top-1 recall over the classes that have examples, as
      scikit-learn's `balanced_accuracy_score`.
    """
    right = ranks == 1
    metrics = {"acc1": float(right.mean())}
    if classes >= 5:
        metrics["acc5"] = float((ranks <= 5).mean())
    examples = np.bincount(labels, minlength=classes)
    recalls = np.bincount(labels, weights=right, minlength=classes)[examples > 0] / examples[examples > 0]
    metrics["mean_per_class_recall"] = float(recalls.mean())
    return metrics


def confusion_matrix(
    predictions: Integer[np.ndarray, " N"], labels: Integer[np.ndarray, " N"], classes: int
) -> Integer[np.ndarray, "C C"]:
    """Counts of examples by true class (row) and predicted class (column).

    Raises:
      ValueError: for predictions or labels outside [0, classes).
    """
    check_indices("labels", labels, classes)
    check_indices("predictions", predictions, classes)
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def macro_f1(confusion: Integer[np.ndarray, "C C"]) -> float:
    """The mean F1 over the classes that have examples or are predicted, as scikit-learn's `f1_score(average="macro")`.

    Args:
      confusion: counts by true class (row) and predicted class (column).

    Raises:
      ValueError: there are no examples.
    """
    right, counts = confusion.diagonal(), confusion.sum(axis=0) + confusion.sum(axis=1)
    if not counts.any():
        raise ValueError("macro F1 of no examples: there should be some")
    return float(np.mean(2 * right[counts > 0] / counts[counts > 0]))


def supervised_metrics(scores: Float[np.ndarray, "N C"], labels: Integer[np.ndarray, " N"]) -> dict[str, float]:
    """Metrics of a trained classifier: those of `classification_metrics`, and those of class against class.

    Args:
      scores: logits, or logarithms of probabilities, of every example and class.
      labels: the right class of every example, in [0, C).

    Returns:
      Also `macro_f1`; `auroc` and `mean_average_precision`, of the probability of each class against the rest, the mean
      over the classes that have examples (and, of `auroc`, that others have, too), where there are two classes at least
      and one has. Of two classes, `auroc` is that of either.

    Raises:
      ValueError: as `classification_metrics`.
    """
    metrics, classes = classification_metrics(scores, labels), scores.shape[1]
    metrics["macro_f1"] = macro_f1(confusion_matrix(scores.argmax(axis=1), labels, classes))
    if classes > 1:
        odds, targets = log_odds(scores), labels[:, None] == np.arange(classes)
        areas = aurocs(odds, targets)
        if not np.isnan(areas).all():
            metrics["auroc"] = float(np.nanmean(areas))
        precisions = average_precisions(odds, targets, ties="together")
        metrics["mean_average_precision"] = float(np.nanmean(precisions))
    return metrics


def log_odds(scores: Float[np.ndarray, "N C"]) -> Float64[np.ndarray, "N C"]:
    """log(p / (1 - p)) of each class's softmax probability p: in the order of p, and exact where p rounds to 1.

    Rows of the same scores in another order, or all higher by as much, have the same values: what ties, still does.
    """
    odds = np.empty(scores.shape, np.float64)
    for rows in blocks(len(scores), _BLOCK):
        block = scores[rows].astype(np.float64)
        ordered = np.sort(block, axis=1)
        best, second = ordered[:, -1:], ordered[:, -2:-1]
        # Of all classes but one of the best: exact where the best has nearly all.
        lead = best - second - np.log(np.exp(ordered[:, :-1] - second).sum(axis=1, keepdims=True))
        shares = np.exp(block - best)
        others = np.exp(ordered - best).sum(axis=1, keepdims=True) - shares
        is_best = block == best
        odds[rows] = np.where(is_best, lead, block - best - np.log(np.where(is_best, 1.0, others)))
    return odds


def aurocs(scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]) -> Float64[np.ndarray, " C"]:
    """Every class's area under the ROC curve, NaN for a class that no example or every one shows.

    The share of pairs of an example with and one without the class of which the first has the higher score, pairs of
    equal scores counted half (Mann and Whitney's U), as scikit-learn's `roc_auc_score`.

    Raises:
      ValueError: as `average_precisions`.
    """
    _check_targets(scores, targets)
    areas = np.full(scores.shape[1], np.nan)
    shown = targets.sum(axis=0)
    for label in np.flatnonzero((shown > 0) & (shown < len(targets))):
        _, group, counts = np.unique(scores[:, label], return_inverse=True, return_counts=True)
        ranks = np.cumsum(counts) - (counts - 1) / 2  # from 1; of equal scores the mean
        count = int(shown[label])
        over = ranks[group.ravel()][targets[:, label]].sum() - count * (count + 1) / 2
        areas[label] = over / (count * (len(targets) - count))
    return areas


def multilabel_metrics(scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]) -> dict[str, float]:
    """Mean average precision over classes, for images that show several of them (VOC2007, MS-COCO).

    Returns:
      `mean_average_precision`, over the classes with an image: one without has no average precision (CLIP_benchmark
      counts it as 0; its data sets have none).

    Raises:
      ValueError: as `average_precisions`.
    """
    return {"mean_average_precision": float(np.nanmean(average_precisions(scores, targets)))}


def average_precisions(
    scores: Float[np.ndarray, "N C"],
    targets: Bool[np.ndarray, "N C"],
    *,
    ties: Literal["in_order", "together"] = "in_order",
) -> Float64[np.ndarray, " C"]:
    """Every class's average precision, NaN for a class that no image shows.

    A class's average precision is 1/P sum over its P images of the precision at their ranks among all N images: no
    interpolation, as CLIP_benchmark and scikit-learn (PASCAL VOC's own protocol of 2007 interpolates at 11 points).

    Args:
      scores: similarity or logits of every image with every class.
      targets: whether the image shows the class.
      ties: of equal scores the lower image comes first (in_order), or all have the last one's rank and precision
        (together), as scikit-learn has it.

    Raises:
      ValueError: for shapes that do not fit, scores that are not finite, or targets that are all false.
    """
    _check_targets(scores, targets)
    precisions = np.full(scores.shape[1], np.nan)
    for label in np.flatnonzero(targets.any(axis=0)):
        order = np.argsort(-scores[:, label], kind="stable")
        shown = targets[order, label]
        ranks = 1 + np.flatnonzero(shown)
        counts = np.arange(1, len(ranks) + 1)
        if ties == "together":
            falling = -scores[order, label]
            ranks = np.searchsorted(falling, falling[ranks - 1], side="right")
            counts = np.cumsum(shown)[ranks - 1]
        precisions[label] = np.mean(counts / ranks)
    return precisions


def _check_targets(scores: Float[np.ndarray, "N C"], targets: Bool[np.ndarray, "N C"]) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape or not targets.any():
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} should be equal and show some class")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite: the embeddings hold NaN or infinity")


def matching_metrics(
    scores: Float[np.ndarray, " N"] | Float[np.ndarray, "N 2"],
    labels: Integer[np.ndarray, " N"] | Bool[np.ndarray, " N"],
) -> dict[str, float]:
    """Accuracy of image-text matching (ITM).

    Args:
      scores: the logit of a match, where above 0 is a match; or the logits of mismatch and match, where the larger one
        decides, and mismatch among equal ones.
      labels: 1 for a match, 0 for a mismatch.

    Returns:
      Values in [0, 1]: `itm_accuracy`; `itm_accuracy_match` and `itm_accuracy_mismatch`, over the pairs of one label,
      left out where there are none; `itm_balanced_accuracy`, the mean of those two, 0.5 for a constant guess. ALBEF's
      pairs are one match to two mismatches, so its constant guess has an accuracy of 2/3.

    Raises:
      ValueError: for no pairs, shapes that do not fit, labels outside {0, 1} or scores that are not finite.
    """
    if labels.ndim != 1 or scores.shape not in (labels.shape, (*labels.shape, 2)) or not labels.size:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} should be [N] or [N, 2], and [N] with N > 0")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite: the model's outputs hold NaN or infinity")
    labels = labels.astype(np.int64)
    check_indices("labels", labels, 2)
    matched = scores[:, 1] > scores[:, 0] if scores.ndim == 2 else scores > 0
    right = matched == (labels == 1)
    metrics = {"itm_accuracy": float(right.mean())}
    for label, name in ((1, "match"), (0, "mismatch")):
        if (labels == label).any():
            metrics[f"itm_accuracy_{name}"] = float(right[labels == label].mean())
    metrics["itm_balanced_accuracy"] = float(np.mean(list(metrics.values())[1:]))
    return metrics


def perplexity(total_nll: float, tokens: int | float) -> float:
    """exp of the mean negative log-likelihood a token; the largest float32 (3.4e38) where it is above that.

    So it is a number that JSON can hold, however wrong a model is.

    Args:
      total_nll: summed over all tokens of all examples, in nats, so that long texts weigh as their tokens do.
      tokens: how many were predicted: padding and the first token are not.

    Raises:
      ValueError: for no tokens.
    """
    if not tokens > 0:
        raise ValueError(f"perplexity of {tokens} tokens: there should be some")
    with np.errstate(over="ignore"):
        return float(np.minimum(np.exp(np.float64(total_nll) / tokens), np.finfo(np.float32).max))
