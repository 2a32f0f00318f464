"""Zero-shot classification: every class is the mean embedding of its prompts (Radford et al. 2021, section 3.1.4)."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Integer

from mmjax.errors import UserError
from mmjax.evaluation.metrics import classification_metrics, confusion_matrix, similarity

EmbedTexts = Callable[[list[str]], np.ndarray]

# Prompts embedded per call: 1,000 classes x 80 templates would otherwise all be held at once, several times over.
_PROMPTS_PER_CALL = 16384


@dataclasses.dataclass(frozen=True)
class ZeroShotResult:
    """What `evaluate_zero_shot` found.

    Attributes:
      metrics: `acc1`, `acc5` (with at least five classes) and `mean_per_class_recall`, in [0, 1].
      weights: [C, E] the class embeddings, L2-normalised float32.
      predictions: [N] the most similar class of every image.
      confusion: [C, C] counts by true class (row) and predicted class (column).
    """

    metrics: dict[str, float]
    weights: np.ndarray
    predictions: np.ndarray
    confusion: np.ndarray


def prompts(class_name: str, templates: Sequence[str]) -> list[str]:
    """The class name put in place of `{c}` in every template; other braces stay as they are."""
    return [template.replace("{c}", class_name) for template in templates]


def zero_shot_weights(
    embed_texts: EmbedTexts, class_names: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "C E"]:
    """Class embeddings: each prompt's embedding is normalised, then their mean over templates is normalised again.

    Args:
      embed_texts: maps n strings to embeddings [n, E].
      class_names: C names.
      templates: prompts with the placeholder `{c}`.

    Raises:
      UserError: without classes or templates, or for a template without `{c}`.
    """
    if not class_names or not templates:
        raise UserError(
            "data.eval: zero-shot classification needs class names and prompt templates; "
            f"the source has {len(class_names)} and {len(templates)}"
        )
    for template in templates:
        if "{c}" not in template:
            raise UserError(f"templates: {template!r} has no {{c}}; put it where the class name belongs")
    classes_per_call = max(1, _PROMPTS_PER_CALL // len(templates))
    weights = []
    for start in range(0, len(class_names), classes_per_call):
        names = class_names[start : start + classes_per_call]
        embedded = embed_texts([prompt for name in names for prompt in prompts(name, templates)])
        embedded = _normalise(embedded.astype(np.float64)).reshape(len(names), len(templates), -1)
        weights.append(_normalise(embedded.mean(axis=1)).astype(np.float32))
    return np.concatenate(weights)


def evaluate_zero_shot(
    image_embeddings: Float[np.ndarray, "N E"],
    labels: Integer[np.ndarray, " N"],
    *,
    embed_texts: EmbedTexts,
    class_names: Sequence[str],
    templates: Sequence[str],
) -> ZeroShotResult:
    """Classifies images by their most similar class embedding; among equals the lower class wins.

    Args:
      image_embeddings: L2-normalised, one row per image.
      labels: the index of every image's class.
      embed_texts: maps n strings to embeddings [n, E].
      class_names: C names.
      templates: prompts with the placeholder `{c}`.

    Raises:
      UserError: as `zero_shot_weights`.
      ValueError: as `metrics.classification_metrics`.
    """
    weights = zero_shot_weights(embed_texts, class_names, templates)
    scores = similarity(image_embeddings, weights)
    predictions = scores.argmax(axis=1)
    return ZeroShotResult(
        metrics=classification_metrics(scores, labels),
        weights=weights,
        predictions=predictions,
        confusion=confusion_matrix(predictions, labels, len(class_names)),
    )


def _normalise(rows: np.ndarray) -> np.ndarray:
    # A zero embedding stays zero: it scores 0 with everything, which is what it knows.
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
