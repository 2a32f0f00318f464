"""Probes of embeddings as evaluations: linear probe, k nearest neighbours, few-shot episodes."""

import numpy as np

from mmjax.data.source_protocols import Source
from mmjax.errors import UserError
from mmjax.evaluation.config import EvaluationSettings
from mmjax.evaluation.embedding.features import Features
from mmjax.evaluation.evaluation_task import (
    EvaluatedModel,
    EvaluatedSource,
    EvaluationTask,
    Outcome,
    without_setup,
)
from mmjax.evaluation.example_selection import Artifacts
from mmjax.metrics.classification import confusion_matrix


def _linear_probe(model: EvaluatedModel, data: EvaluatedSource) -> Outcome:
    from mmjax.evaluation.evaluators import probes

    test, classes = data.features, len(data.features.class_names)
    result = probes.linear_probe(*_arrays(data), classes=classes, seed=model.settings.seed)
    metrics = result.metrics | {"inverse_l2": result.inverse_l2, "converged": float(result.converged)}
    return Outcome(metrics, len(test), _confusion(test, result.predictions))


def _knn(model: EvaluatedModel, data: EvaluatedSource) -> Outcome:
    from mmjax.evaluation.evaluators import probes

    settings, test = model.settings.knn, data.features
    result = probes.knn(*_arrays(data), classes=len(test.class_names), ks=settings.ks, vote=settings.vote)
    k = settings.ks[0]
    return Outcome(result.metrics, len(test), _confusion(test, result.predictions[k], f"k = {k}"))


def _arrays(data: EvaluatedSource) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings and labels to learn from, and those to evaluate."""
    test, train = data.features, data.train_features
    return train.embeddings, train.single_labels, test.embeddings, test.single_labels


def _confusion(test: Features, predictions: np.ndarray, what: str = "") -> Artifacts:
    """The artifacts of predictions alone."""
    names = test.class_names
    return Artifacts([], [], confusion_matrix(predictions, test.single_labels, len(names)), names, what=what)


def _few_shot(model: EvaluatedModel, data: EvaluatedSource) -> Outcome:
    from mmjax.evaluation.evaluators import probes

    settings, test = model.settings.few_shot, data.features
    metrics = {}
    for shots in settings.shots:
        result = probes.few_shot_metrics(
            test.embeddings,
            test.single_labels,
            ways=settings.ways,
            shots=shots,
            queries=settings.queries,
            episodes=settings.episodes,
            head=settings.head,
            seed=model.settings.seed,
        )
        metrics |= {f"{settings.ways}way_{shots}shot_{name}": value for name, value in result.items()}
    return Outcome(metrics, len(test))


def _check_ways(source: Source, settings: EvaluationSettings) -> None:
    """Checks that episodes can be drawn.

    Raises:
      UserError: there are fewer classes than an episode has.
    """
    ways, classes = settings.few_shot.ways, len(source.class_names or ())
    if classes < ways:
        raise UserError(
            f"{settings.prefix}few_shot.ways={ways}: {source.name} has {classes} classes; choose fewer ways"
        )


LINEAR_PROBE = EvaluationTask(
    title="linear probe",
    evaluator=without_setup(_linear_probe),
    needs=("features",),
    needs_classes=True,
    needs_one_label=True,
    needs_train=True,
    reads=("seed",),
)
KNN = EvaluationTask(
    title="k nearest neighbours",
    evaluator=without_setup(_knn),
    needs=("features",),
    needs_classes=True,
    needs_one_label=True,
    needs_train=True,
    reads=("knn",),
)
FEW_SHOT = EvaluationTask(
    title="few-shot episodes",
    evaluator=without_setup(_few_shot),
    needs=("features",),
    needs_classes=True,
    needs_one_label=True,
    check=_check_ways,
    reads=("few_shot", "seed"),
)
