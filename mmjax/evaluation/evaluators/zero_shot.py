"""Zero-shot classification: every class is the mean embedding of its prompts (Radford et al. 2021, section 3.1.4)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer

from mmjax.errors import UserError, did_you_mean
from mmjax.metrics import classification, exact_dot

EmbedTexts = Callable[[list[str]], np.ndarray]
# Either one list for all classes, with {c} where the name belongs, or finished prompts for each class by its name.
Templates = Sequence[str] | Mapping[str, Sequence[str]]

# Prompts embedded per call: 1,000 classes x 80 templates would otherwise all be held at once, several times over.
_PROMPTS_PER_CALL = 16384
_IMAGES_PER_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class ZeroShotResult:
    """The outcome of `evaluate_zero_shot`.

    Attributes:
      metrics: `acc1`, `acc5` (with at least five classes), `mean_per_class_recall` and `macro_f1`, in [0, 1].
      weights: [C, E] the class embeddings, L2-normalised float32.
      predictions: [N] the most similar class of every image.
      confusion: [C, C] counts by true class (row) and predicted class (column).
    """

    metrics: dict[str, float]
    weights: np.ndarray
    predictions: np.ndarray
    confusion: np.ndarray


@dataclasses.dataclass(frozen=True)
class MultilabelResult:
    """The outcome of `evaluate_multilabel`.

    Attributes:
      metrics: `mean_average_precision`, in [0, 1].
      weights: [C, E] the class embeddings, L2-normalised float32.
      average_precisions: [C] of every class, NaN for one that no image shows.
    """

    metrics: dict[str, float]
    weights: np.ndarray
    average_precisions: np.ndarray


def prompts(class_name: str, templates: Sequence[str]) -> list[str]:
    """The class name put in place of `{c}` in every template; other braces stay as they are."""
    return [template.replace("{c}", class_name) for template in templates]


def class_prompts(class_names: Sequence[str], templates: Templates) -> list[list[str]]:
    """The prompts of every class.

    Args:
      class_names: C names.
      templates: prompts with the placeholder `{c}`, for all classes; or a dictionary from every class name to its own
        prompts (as CuPL's, Pratt et al. 2023), taken as they are but for a `{c}`, which is replaced there too.

    Raises:
      UserError: without classes or templates, for a shared template without `{c}`, or a class without prompts.
    """
    if not class_names or not templates:
        missing = "templates: there are no prompt templates" if class_names else "class_names: there are no classes"
        raise UserError(f"{missing}; zero-shot classification needs at least one")
    if isinstance(templates, Mapping):
        for name in class_names:
            if isinstance(templates.get(name), str):
                raise UserError(f"templates: the prompts of class {name!r} are one string; give a list of strings")
            if not templates.get(name):
                near = "" if name in templates else did_you_mean(name, templates)
                raise UserError(f"templates: class {name!r} has no prompts{near}; give at least one")
        return [prompts(name, templates[name]) for name in class_names]
    for template in templates:
        if "{c}" not in template:
            raise UserError(f"templates: {template!r} has no {{c}}; put it where the class name belongs")
    return [prompts(name, templates) for name in class_names]


def zero_shot_weights(
    embed_texts: EmbedTexts, class_names: Sequence[str], templates: Templates
) -> Float32[np.ndarray, "C E"]:
    """Class embeddings: each prompt's embedding is normalised, then their mean over prompts is normalised again.

    Args:
      embed_texts: maps n strings to embeddings [n, E].
      class_names: C names.
      templates: see `class_prompts`.

    Raises:
      UserError: as `class_prompts`.
    """
    weights: list[np.ndarray] = []
    for part in _prompts_by_call(class_prompts(class_names, templates)):
        embedded = _normalise(embed_texts([prompt for texts in part for prompt in texts]).astype(np.float64))
        for class_rows in np.split(embedded, np.cumsum([len(texts) for texts in part])[:-1]):
            weights.append(_normalise(class_rows.mean(axis=0)).astype(np.float32))
    return np.stack(weights)


def evaluate_zero_shot(
    image_embeddings: Float[np.ndarray, "N *V E"],
    labels: Integer[np.ndarray, " N"],
    *,
    embed_texts: EmbedTexts,
    class_names: Sequence[str],
    templates: Templates,
) -> ZeroShotResult:
    """Classifies images by their most similar class embedding; among equals the lower class wins.

    Args:
      image_embeddings: L2-normalised, one row per image.
      labels: the index of every image's class.
      embed_texts: maps n strings to embeddings [n, E].
      class_names: C names.
      templates: see `class_prompts`.

    Raises:
      UserError: as `class_prompts`.
      ValueError: as `metrics.classification.classification_metrics`.
    """
    weights = zero_shot_weights(embed_texts, class_names, templates)
    ranks, predictions = np.empty(len(labels), np.int64), np.empty(len(labels), np.int64)
    for rows in exact_dot.blocks(len(labels), _IMAGES_PER_BLOCK):
        scores = exact_dot.similarity(image_embeddings[rows], weights)
        ranks[rows], predictions[rows] = classification.label_ranks(scores, labels[rows]), scores.argmax(axis=1)
    confusion = classification.confusion_matrix(predictions, labels, len(class_names))
    metrics = classification.label_rank_metrics(ranks, labels, len(class_names))
    metrics["macro_f1"] = classification.macro_f1(confusion)
    return ZeroShotResult(metrics, weights, predictions, confusion)


def evaluate_multilabel(
    image_embeddings: Float[np.ndarray, "N *V E"],
    targets: Bool[np.ndarray, "N C"],
    *,
    embed_texts: EmbedTexts,
    class_names: Sequence[str],
    templates: Templates,
) -> MultilabelResult:
    """Ranks all images for every class, for images that show several of them; see `multilabel_metrics`.

    Args:
      image_embeddings: L2-normalised, one row per image.
      targets: whether each image shows each class.
      embed_texts, class_names, templates: see `evaluate_zero_shot`.
    """
    weights = zero_shot_weights(embed_texts, class_names, templates)
    precisions = classification.average_precisions(exact_dot.similarity(image_embeddings, weights), targets)
    return MultilabelResult({"mean_average_precision": float(np.nanmean(precisions))}, weights, precisions)


def _prompts_by_call(classes: list[list[str]]) -> Iterator[list[list[str]]]:
    """Cuts the classes' prompts into parts that are embedded at a time."""
    part, size = [], 0
    for texts in classes:
        if part and size + len(texts) > _PROMPTS_PER_CALL:
            yield part
            part, size = [], 0
        part.append(texts)
        size += len(texts)
    yield part


def _normalise(rows: np.ndarray) -> np.ndarray:
    # A zero embedding stays zero: it scores 0 with everything, which is what it knows.
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
