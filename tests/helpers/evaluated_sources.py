"""Sources as evaluations see them, with models that need no parameters."""

from unittest import mock

from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.evaluation import evaluation_task
from mmjax.evaluation.config import EvalConfig
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource


def array_specs(shapes, image=None, nan_allowed=()):
    """Specs of arrays that are taken as they are, by modality, beside that of the record's image where it has one."""
    others = (ModalitySpec(name, shape, nan_allowed=name in nan_allowed) for name, shape in sorted(shapes.items()))
    return InputSpecs(image, tuple(others))


def evaluated(source, specs, *, keep=False, params=None, decode=None):
    """A source whose examples this process decodes, or `decode` makes."""
    return EvaluatedSource(
        source,
        params,
        decode or (lambda source: EvalExamples(source, specs)),
        specs=InputSpecs.of(specs),
        has_report=keep,
    )


def evaluate_embeddings(sources, embedder, *, examples, keep_artifacts=False):
    """Zero-shot classification of sources with classes, retrieval of others, as a run evaluates them."""
    results = []
    for source in sources:
        name = "zeroshot_classification" if source.class_names else "zeroshot_retrieval"
        evaluator = evaluation_task.load(name).evaluator(
            EvaluatedModel(mock.Mock(seen="image"), mock.Mock(spec=BatchRunner), None, EvalConfig())
        )
        data = EvaluatedSource(source, None, examples, bound_embedder=embedder, has_report=keep_artifacts)
        results.append(evaluation_task.evaluate(name, evaluator, data))
    return results
