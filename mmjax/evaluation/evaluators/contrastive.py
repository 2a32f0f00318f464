"""Zero-shot classification and retrieval of evaluation sources, through any `Embedder` of images and texts.

A source with class names is evaluated by zero-shot classification, any other by retrieval; both also give the held-out
loss.
"""

import numpy as np
from jaxtyping import Bool

from mmjax.data.formats.wordnet_ids import log_numbers
from mmjax.data.source_protocols import Source
from mmjax.evaluation.config import EvaluationSettings
from mmjax.evaluation.embedding.features import Embedder, Features, SharesIds
from mmjax.evaluation.evaluation_task import (
    EvaluatedModel,
    EvaluatedSource,
    EvaluationTask,
    Outcome,
    missing_caption,
    without_setup,
)
from mmjax.evaluation.evaluators.retrieval import embed_unique, evaluate_retrieval
from mmjax.evaluation.evaluators.zero_shot import evaluate_multilabel, evaluate_zero_shot
from mmjax.evaluation.example_selection import Matching
from mmjax.evaluation.prompts import PromptedSource
from mmjax.evaluation.results import CLASSIFICATION
from mmjax.metrics import bootstrap as bootstrap_lib


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
    texts = [captions[0] for captions in features.captions]
    _, first, index = embed_unique(embedder.texts, texts)
    return _with_loss(result.metrics, features, first[index], texts, embedder), matching


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
    first = result.text_index[np.unique(result.text_image, return_index=True)[1]]
    ids = features.ids.tolist()
    groups: list[set[int]] = [set() for _ in result.texts]
    for text, image in zip(result.text_index, result.text_image, strict=True):
        groups[text].add(ids[image])
    matching = Matching(result.texts, result.text_embeddings, groups, ids)
    if with_loss:
        texts = [result.texts[i] for i in first]
        metrics = _with_loss(metrics, features, result.text_embeddings[first], texts, embedder)
    return metrics, matching


def _with_loss(
    metrics: dict[str, float], features: Features, paired: np.ndarray, texts: list[str], embedder: Embedder
) -> dict[str, float]:
    ids = embedder.pair_ids(features.ids, texts) if isinstance(embedder, SharesIds) else features.ids
    loss = embedder.loss(features.embeddings, paired, ids)
    return metrics if loss is None else metrics | {getattr(embedder, "loss_name", "loss"): float(loss)}


def _evaluate_classification(model: EvaluatedModel, data: EvaluatedSource) -> Outcome:
    features, settings = data.features, model.settings
    metrics, matching = classify(features, data.embedder, with_loss=model.held_out_loss)
    if settings.bootstrap and matching.confusion is not None:
        # A mean does not depend on the order of its values, so the counts are enough.
        right = int(matching.confusion.trace())
        values = np.arange(len(features)) < right
        interval = bootstrap_lib.bootstrap_interval(values, resamples=settings.bootstrap, seed=settings.seed)
        metrics |= interval.metrics("acc1")
    return Outcome(metrics, len(features), matching)


def _evaluate_retrieval(model: EvaluatedModel, data: EvaluatedSource) -> Outcome:
    metrics, matching = retrieve(
        data.features,
        data.embedder,
        fold_size=data.fold_size or None,
        bootstrap=model.settings.bootstrap,
        seed=model.settings.seed,
        with_loss=model.held_out_loss,
    )
    seen = model.task.seen  # `image_retrieval_*` is named after what is retrieved
    metrics = {name.replace("image_retrieval", f"{seen}_retrieval"): value for name, value in metrics.items()}
    return Outcome(metrics, len(data.features), matching)


def _check_class_names(source: Source, settings: EvaluationSettings) -> None:
    del settings
    if not isinstance(source, PromptedSource):  # published prompts of numbers say that they are some
        remedy = "write classnames.txt beside them, or set prompts"
        log_numbers(source.class_names or (), f"the data {source.name!r}", remedy)


ZERO_SHOT_CLASSIFICATION = EvaluationTask(
    title="zero-shot classification",
    evaluator=without_setup(_evaluate_classification),
    needs=("embeddings",),
    needs_classes=True,
    check=_check_class_names,
    reads=("prompts", "bootstrap"),
    by_default="where_possible",
    curves=("acc1", "mean_per_class_recall", "mean_average_precision"),
    has_plain_metrics=True,
)
ZERO_SHOT_RETRIEVAL = EvaluationTask(
    title="zero-shot retrieval",
    evaluator=without_setup(_evaluate_retrieval),
    needs=("embeddings",),
    missing_fields=missing_caption,
    reads=("fold_size", "bootstrap"),
    by_default="always",
    curves=("image_retrieval_recall@1", "text_retrieval_recall@1"),
    fallback_for=CLASSIFICATION,
    has_plain_metrics=True,
)
