"""Zero-shot classification and retrieval of evaluation sources, through any `Embedder` of images and texts.

A source with class names is evaluated by zero-shot classification, any other by retrieval; both also give the held-out
loss. The further tasks of a suite are in `suite/runner`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from mmjax.data.record import Source
from mmjax.evaluation import example_selection
from mmjax.evaluation.embedding.features import Embedder, Examples, Features, embed_source
from mmjax.evaluation.evaluators.retrieval import embed_unique, evaluate_retrieval
from mmjax.evaluation.evaluators.zero_shot import evaluate_multilabel, evaluate_zero_shot
from mmjax.evaluation.example_selection import Matching
from mmjax.evaluation.results import CLASSIFICATION, RETRIEVAL, Evaluation


def evaluate(
    sources: Sequence[Source],
    embedder: Embedder,
    *,
    examples: Examples,
    keep_artifacts: bool = False,
    seed: int = 0,
) -> list[Evaluation]:
    """Evaluates every source, in order.

    Args:
      sources: one evaluation each.
      embedder: the model.
      examples: decodes a source (or a view of one) into its examples, each once, in order of index.
      keep_artifacts: whether to also collect what a report shows.
      seed: decides which examples a report shows; metrics do not depend on it.

    Raises:
      UserError: for a source without examples, or with class names and no templates.
      ValueError: for labels, captions or embeddings that do not fit.
    """
    evaluations = []
    for source in sources:
        features = embed_source(source, embedder, examples)
        task, evaluate_features = (CLASSIFICATION, classify) if source.class_names else (RETRIEVAL, retrieve)
        metrics, matching = evaluate_features(features, embedder)
        shown = example_selection.collect_artifacts(features, matching, examples, seed=seed) if keep_artifacts else None
        evaluations.append(Evaluation(source.name, task, len(features), metrics, shown))
    return evaluations


def classify(features: Features, embedder: Embedder, *, with_loss: bool = True) -> tuple[dict[str, float], Matching]:
    """Zero-shot classification by the source's class names and templates, and the held-out loss.

    Images that show several classes give `mean_average_precision`, and no loss: none of their captions is the one.
    """
    names = features.class_names
    if features.targets is not None:
        return _classify_multilabel(features, features.targets, embedder)
    result = evaluate_zero_shot(
        features.embeddings,
        features.single_labels,
        embed_texts=embedder.texts,
        class_names=names,
        templates=features.source.templates or [],
    )
    groups = [{label} for label in range(len(names))]
    matching = Matching(names, result.weights, groups, features.single_labels.tolist(), result.confusion, names)
    if not with_loss:
        return result.metrics, matching
    _, first, index = embed_unique(embedder.texts, [captions[0] for captions in features.captions])
    return _with_loss(result.metrics, features, first[index], embedder), matching


def _classify_multilabel(
    features: Features, targets: Bool[np.ndarray, "N C"], embedder: Embedder
) -> tuple[dict[str, float], Matching]:
    names = features.class_names
    result = evaluate_multilabel(
        features.embeddings,
        targets,
        embed_texts=embedder.texts,
        class_names=names,
        templates=features.source.templates or [],
    )
    matching = Matching(
        names,
        result.weights,
        text_groups=[set(np.flatnonzero(shown).tolist()) for shown in targets.T],
        image_groups=list(range(len(features))),
        class_names=names,
        average_precisions=result.average_precisions,
        class_counts=targets.sum(axis=0),
        captions=[[names[label] for label in np.flatnonzero(shown)] for shown in targets],
    )
    return result.metrics, matching


def retrieve(
    features: Features,
    embedder: Embedder,
    *,
    fold_size: int | None = None,
    bootstrap: int = 0,
    seed: int = 0,
    with_loss: bool = True,
) -> tuple[dict[str, float], Matching]:
    """Retrieval in both directions by all captions, and the held-out loss; see `retrieval.evaluate_retrieval`.

    With `bootstrap` resamples, drawn by `seed`, also the recalls' intervals.
    """
    result = evaluate_retrieval(
        features.embeddings,
        features.captions,
        embed_texts=embedder.texts,
        image_ids=features.ids,
        fold_size=fold_size,
    )
    metrics = result.metrics
    if bootstrap:
        metrics = metrics | result.recall_intervals(features.ids, resamples=bootstrap, seed=seed)
    # The loss pairs every image with its first caption.
    paired = result.text_embeddings[result.text_index[np.unique(result.text_image, return_index=True)[1]]]
    ids = features.ids.tolist()
    groups: list[set[int]] = [set() for _ in result.texts]
    for text, image in zip(result.text_index, result.text_image, strict=True):
        groups[text].add(ids[image])
    matching = Matching(result.texts, result.text_embeddings, groups, ids)
    return (_with_loss(metrics, features, paired, embedder) if with_loss else metrics), matching


def _with_loss(
    metrics: dict[str, float], features: Features, paired: np.ndarray, embedder: Embedder
) -> dict[str, float]:
    loss = embedder.loss(features.embeddings, paired, features.ids)
    return metrics if loss is None else metrics | {getattr(embedder, "loss_name", "loss"): float(loss)}
