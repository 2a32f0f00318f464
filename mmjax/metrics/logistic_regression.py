"""Multinomial logistic regression by L-BFGS with scikit-learn's objective; large features keep their precision.

scikit-learn hands its solver float64 weights, and so makes a float64 copy of float32 features in every product. Here
products are of the features' own precision, a block of examples at a time; sums over blocks are of float64.
"""

import dataclasses

import numpy as np
import scipy.optimize
from jaxtyping import Float, Integer

from mmjax.metrics.exact_dot import blocks

_BLOCK = 4096  # examples: their logits stay in the processor's cache
_LEAST = -60.0  # logits below the largest one that still count
_GRADIENT = 1e-4  # scikit-learn's tolerance, of the largest entry of the gradient of the mean loss
# A step that lowers the loss by less than this share of it is the last (scikit-learn's, too).
_LOSS = 64 * np.finfo(np.float64).eps
_SMALL = 2**24  # numbers; fewer are computed with in float64


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A fit.

    Attributes:
      weights: [K, D] float64, for the K classes that have examples.
      bias: [K] float64.
      classes: [K] their labels, ascending.
      loss: the mean cross-entropy in nats plus the penalty, |weights|^2 / (2 C N).
      iterations: of L-BFGS.
      converged: whether it ended before the most iterations.
    """

    weights: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    loss: float
    iterations: int
    converged: bool

    def scores(self, features: Float[np.ndarray, "M D"], classes: int) -> Float[np.ndarray, "M C"]:
        """Logits of all classes; those that had no examples score below all others."""
        logits = features.astype(np.float64) @ self.weights.T + self.bias
        scores = np.repeat(logits.min(axis=1, keepdims=True) - 1, classes, axis=1)
        scores[:, self.classes] = logits
        return scores


def fit(
    features: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    *,
    inverse_l2: float,
    start: Logistic | None = None,
    max_iterations: int = 1000,
) -> Logistic:
    """Minimises C times the sum of cross-entropies plus half the squared norm of the weights; the bias is free.

    With two classes the weights are of one difference, as scikit-learn's: there the penalty counts half of theirs.

    Args:
      features, labels: examples of at least two classes.
      inverse_l2: C.
      start: a fit to begin from, of the same classes and width (a stronger penalty's, say).
      max_iterations: of L-BFGS.

    Raises:
      ValueError: for examples of one class, or a start of others.
    """
    # Where it costs nothing, float64: features that hardly differ (of a model at its start, say) need it.
    features = features.astype(
        np.float64 if features.size <= _SMALL or features.dtype == np.float64 else np.float32, copy=False
    )
    classes, targets = np.unique(labels, return_inverse=True)
    shape = (len(classes), features.shape[1] + 1)
    if len(classes) < 2:
        raise ValueError("labels are of one class; a classifier needs two")
    if start is not None and not (start.weights.shape == (shape[0], shape[1] - 1) and (start.classes == classes).all()):
        raise ValueError(f"the start is of {start.weights.shape} weights, and the examples want {shape}")
    first = np.zeros(shape) if start is None else np.column_stack([start.weights, start.bias])
    penalty = (2 if len(classes) == 2 else 1) / (inverse_l2 * len(labels))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat.reshape(shape)[:, :-1], flat.reshape(shape)[:, -1]
        loss, gradient = _cross_entropy(features, targets, weights, bias)
        gradient[:, :-1] += penalty * weights
        return loss + 0.5 * penalty * float(np.vdot(weights, weights)), gradient.ravel()

    result = scipy.optimize.minimize(
        objective,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        options=dict(
            maxiter=max_iterations,
            maxfun=4 * max_iterations,
            maxls=50,
            gtol=_GRADIENT,
            ftol=_LOSS,
        ),
    )
    weights = result.x.reshape(shape)
    # Status 1 is too many iterations; 2 is a line search without a lower point, where rounding hides what is left.
    return Logistic(weights[:, :-1], weights[:, -1], classes, float(result.fun), int(result.nit), result.status != 1)


def _cross_entropy(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, bias: np.ndarray
) -> tuple[float, np.ndarray]:
    """The mean cross-entropy and its gradient, [K, D + 1] with the bias's last."""
    dtype = features.dtype
    transposed, offset = np.ascontiguousarray(weights.T, dtype), bias.astype(dtype)
    loss, gradient = 0.0, np.zeros((len(bias), features.shape[1] + 1))
    for rows in blocks(len(features), _BLOCK):
        labels, examples = targets[rows], np.arange(rows.stop - rows.start)
        logits = features[rows] @ transposed
        logits += offset
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[examples, labels]
        # Denormal numbers would slow everything after by far, and tell nothing at float32's precision.
        np.exp(np.maximum(logits, _LEAST, out=logits), out=logits)
        sums = logits.sum(axis=1, keepdims=True)
        loss += float(np.log(sums).sum(dtype=np.float64) - right.sum(dtype=np.float64))
        logits /= sums
        logits[examples, labels] -= 1
        # In this order: BLAS is several times slower at a product whose first factor has few rows.
        gradient[:, :-1] += (features[rows].T @ logits).T
        gradient[:, -1] += logits.sum(axis=0, dtype=np.float64)
    return loss / len(features), gradient / len(features)
