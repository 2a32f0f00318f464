"""Sources as evaluations see them, with models that need no parameters."""

from unittest import mock

from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.evaluation import evaluation_task
from mmjax.evaluation.config import EvalConfig
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource


def evaluated(source, image_spec, *, keep=False, params=None, decode=None):
    """A source whose examples this process decodes, or `decode` makes."""
    return EvaluatedSource(
        source,
        params,
        decode or (lambda source: EvalExamples(source, image_spec)),
        image_spec=image_spec,
        has_report=keep,
    )


def evaluate_embeddings(sources, embedder, *, examples, keep_artifacts=False):
    """Zero-shot classification of sources with classes, retrieval of others, as a run evaluates them."""
    results = []
    for source in sources:
        name = "zeroshot_classification" if source.class_names else "zeroshot_retrieval"
        evaluator = evaluation_task.load(name).evaluator(
            EvaluatedModel(None, mock.Mock(spec=BatchRunner), None, EvalConfig())
        )
        data = EvaluatedSource(source, None, examples, bound_embedder=embedder, has_report=keep_artifacts)
        results.append(evaluation_task.evaluate(name, evaluator, data))
    return results
