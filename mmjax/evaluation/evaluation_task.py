"""Evaluations as objects that say what they need of model and data, and what they are given."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import jax
from jax.sharding import Mesh

from mmjax import plugin_calls, registry
from mmjax.config.schema import RunConfig
from mmjax.data.bad_example import BadExample
from mmjax.data.loading.corruption import Sweep
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.source_protocols import Source
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError, did_you_mean, validate_choice
from mmjax.evaluation import corrupted, example_selection, results
from mmjax.evaluation.config import DatasetConfig, EvaluationSettings
from mmjax.evaluation.embedding import features
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.embedding.features import Embedder, ExamplePass, Features
from mmjax.evaluation.example_selection import Artifacts, Matching
from mmjax.evaluation.results import Evaluation
from mmjax.models.slot_config import MODALITIES
from mmjax.parallel import process_agreement
from mmjax.tasks import capabilities, load_objective
from mmjax.tasks.task import Task

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of an evaluation on a source.

    Attributes:
      metrics: by name; rates in [0, 1].
      n: how many images (or what else its `unit` says) they are of.
      artifacts: what a report shows; a `Matching` is made into that where there is a report.
    """

    metrics: dict[str, float]
    n: int
    artifacts: Matching | Artifacts | None = None


@dataclasses.dataclass(frozen=True)
class EvaluatedModel:
    """A model as evaluations see it; its parameters come with each source.

    Attributes:
      task: the model's, see `mmjax.tasks.Task`; its methods are functions of parameters and arrays.
      runner: compiles functions of batches, and runs them over the mesh.
      tokenizer: of texts; None for a model without.
      settings: `eval` of the config, or the suite's.
      meteor: see `eval.meteor`.
      held_out_loss: whether the loss is wanted, which depends on the batch.
      fields: the evaluation's own, `eval.NAME`, in a suite `NAME`; None where it has none.
    """

    task: Any
    runner: BatchRunner
    tokenizer: Tokenizer | None
    settings: EvaluationSettings
    meteor: bool = False
    held_out_loss: bool = True
    fields: Any = None

    @classmethod
    def make(cls, task: Task, mesh: Mesh, config: RunConfig, settings: EvaluationSettings) -> "EvaluatedModel":
        """The model of a config; the loss is wanted where the settings are the config's, not of a suite.

        Raises:
          UserError: `eval.batch_size` does not divide over the mesh.
        """
        loss = config.loss.impl if task.is_contrastive else "dense"
        runner = BatchRunner(mesh, config.eval.batch_size, loss=loss)
        return cls(task, runner, task.settings.tokenizer, settings, config.eval.meteor, settings is config.eval)

    def of(self, name: str) -> "EvaluatedModel":
        """The model as the evaluation of a name sees it."""
        return dataclasses.replace(self, fields=self.settings.added.get(name))

    @property
    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer of a model with texts.

        Raises:
          TypeError: it has none.
        """
        if self.tokenizer is None:
            raise TypeError(f"{capabilities.describe_model(self.task.config)} has no tokenizer")
        return self.tokenizer


@dataclasses.dataclass(frozen=True)
class EvaluatedSource:
    """A source as evaluations see it, with the parameters to evaluate; its images are embedded once for all of them.

    Attributes:
      source: its records, with class names and prompts.
      params: of the model.
      decode: makes examples of a source (or a view of one); processes read this one together.
      specs: how images and other modalities are prepared.
      views: the same in several clips and crops, see `views.view_specs`; None for `specs`.
      bound_embedder, train: of the model with its parameters, and the images that probes learn from; None where no
        evaluation embeds, or learns.
      fold_size: images in a fold of retrieval; 0 for no folds.
      has_report: whether artifacts will be shown by the first process.
      sweeps: corruptions of the examples, on which evaluations that have `curves` are run as well.
      progress: what examples pass through, such as a progress bar.
    """

    source: Source
    params: Any
    decode: Callable[[Source], EvalExamples]
    specs: InputSpecs = InputSpecs()
    views: InputSpecs | None = None
    bound_embedder: Embedder | None = None
    train: Source | None = None
    fold_size: int = 0
    has_report: bool = False
    sweeps: tuple[Sweep, ...] = ()
    progress: Callable[[EvalExamples], Iterable[Any]] = iter

    @property
    def keep(self) -> bool:
        """Whether this process is to collect artifacts."""
        return self.has_report and jax.process_index() == 0

    @property
    def examples(self) -> EvalExamples:
        """Its examples. Of several processes each decodes its rows, and the images of others are blank.

        They exchange captions, label, id, `question`, `answers`, `answer_type`, `references`, `task` and `language`.
        """
        return self.decode(self.source)

    @property
    def local_examples(self) -> EvalExamples:
        """Its examples with all fields of their records, read by this process alone."""
        return EvalExamples(self.source, self.specs)

    def in_views(self, examples: Any) -> Any:
        """The same examples in all clips and crops of testing, of which the mean is taken."""
        return examples if self.views is None else examples.with_specs(self.views)  # `decode` gives `EvalExamples`

    def stream(self, keep: Callable[[Any], T], examples: EvalExamples | None = None) -> ExamplePass[T]:
        """Examples in one pass, with what is kept of them; `self.examples` where none are given."""
        return ExamplePass(self.progress(self.examples if examples is None else examples), keep)

    @property
    def embedder(self) -> Embedder:
        """The embedder of images and texts, with the parameters.

        Raises:
          TypeError: nobody wanted one: an `EvaluationTask` that embeds says so in `needs`.
        """
        if self.bound_embedder is None:
            raise TypeError(f"{self.source.name}: no evaluation needs 'embeddings' or 'encode_image'")
        return self.bound_embedder

    @functools.cached_property
    def features(self) -> Features:
        """Embeddings of all images, with captions, labels and ids."""
        return features.embed_source(self.source, self.embedder, self._decode_with_progress)

    @functools.cached_property
    def train_features(self) -> Features:
        """The same of the images that probes learn from.

        Raises:
          TypeError: there are none: an `EvaluationTask` that learns says so by `needs_train`.
        """
        if self.train is None:
            raise TypeError(f"{self.source.name}: no evaluation needs a training split")
        return features.embed_source(self.train, self.embedder, self._decode_with_progress)

    def _decode_with_progress(self, source: Source) -> Iterable[Any]:
        return self.progress(self.in_views(self.decode(source)))


Evaluator = Callable[[EvaluatedSource], Outcome]


def missing_caption(record: Mapping[str, Any]) -> str:
    """What a record lacks for an evaluation of captions: `EvaluationTask.missing_fields`."""
    return "" if record.get("captions") else "captions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """An evaluation that `eval.tasks` and the datasets of suites may name.

    Attributes:
      title: stands above its table.
      evaluator: `EvaluatedModel` -> (`EvaluatedSource` -> `Outcome`); what it compiles it compiles once a model.
      unit: what `Outcome.n` counts.
      needs: of the model: names of `tasks.capabilities.abilities`, such as `encode_image` or `caption`.
      taught: what the model must have been trained to do, one of these names of `serves`; () where that is all one.
      sees: modalities, one of which the model sees beside its text, such as `video`; () where that is all one.
      needs_classes: the source has class names.
      needs_one_label: every image shows one class.
      needs_train: it learns from a training split.
      of_hard_negatives: it tells right captions from wrong ones: where none is named, it alone is run on sources that
        have those, see `HasHardNegatives`, and on no others.
      missing_fields: what a source's first record lacks for it, in words; "" where nothing.
      check: (source, settings) -> None; raises `UserError` where they do not fit.
      check_classes: (source, task) -> None; raises `UserError` where the model does not know the source's classes.
      reads: fields that its outcome depends on, of the settings (`bootstrap`, `seed`, ...) and of a suite's dataset
        (`prompts`, `fold_size`); its own are known.
      reads_of_run: such fields or groups of the run, by path: `decoding`, `loss.mlm_rate`.
      by_default: where `eval.tasks` names none: `never` runs; `always`, so that a source without what it needs is a
        mistake; or on sources that have what it needs, `where_possible`.
      curves: metrics that `eval.corrupt` gives curves of; without any, it is not run on corrupted examples.
      fallback_for: another one's name, beside which it is not run by default.
      has_plain_metrics: whether a run's log has its metrics as DATASET/METRIC; else as DATASET/TASK/METRIC.
    """

    title: str
    evaluator: Callable[[EvaluatedModel], Evaluator]
    unit: str = "images"
    needs: tuple[str, ...] = ()
    taught: tuple[str, ...] = ()
    sees: tuple[str, ...] = ()
    needs_classes: bool = False
    needs_one_label: bool = False
    needs_train: bool = False
    of_hard_negatives: bool = False
    missing_fields: Callable[[Mapping[str, Any]], str] = lambda record: ""
    check: Callable[[Source, EvaluationSettings], None] | None = None
    check_classes: Callable[[Source, Task], None] | None = None
    reads: tuple[str, ...] = ()
    reads_of_run: tuple[str, ...] = ()
    by_default: Literal["never", "always", "where_possible"] = "never"
    curves: tuple[str, ...] = ()
    fallback_for: str = ""
    has_plain_metrics: bool = False

    def __post_init__(self):
        """Checks what a plugin may have written.

        Raises:
          UserError: naming the argument.
        """
        for name in ("evaluator", "missing_fields"):
            if not callable(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)!r} of an EvaluationTask cannot be called")
        for name in ("needs", "taught", "sees", "reads", "reads_of_run", "curves"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise UserError(f"{name}={value!r} of an EvaluationTask wants a tuple, such as ('embeddings',)")
        validate_choice("by_default", self.by_default, ("never", "always", "where_possible"))

    @property
    def embeds(self) -> bool:
        """Whether it reads embeddings."""
        return not {"embeddings", "features", *capabilities.EMBEDDING}.isdisjoint(self.needs)

    @property
    def takes_views(self) -> bool:
        """Whether it takes the mean over several clips and crops of an example, see `views`."""
        return self.embeds or not {"modalities", "classify"}.isdisjoint(self.needs)


def without_setup(
    function: Callable[[EvaluatedModel, EvaluatedSource], Outcome],
) -> Callable[[EvaluatedModel], Evaluator]:
    """The `evaluator` of a function that compiles nothing."""
    return lambda model: functools.partial(function, model)


def load(name: str, field: str = "eval.tasks") -> EvaluationTask:
    """The evaluation of a name.

    Args:
      name: as a config has it.
      field: of the config, to begin errors with.

    Raises:
      UserError: there is none, the nearest one is named; or what is registered is no `EvaluationTask`.
    """
    info = registry.evaluations.load(registry.evaluations.validate_choice(field, name), where=field)
    if not isinstance(info, EvaluationTask):
        kind = info.__name__ if isinstance(info, type) else type(info).__name__
        module = registry.evaluations.module(name)
        raise UserError(f"evaluation {name!r} of {module} is {kind}; register an EvaluationTask, which has it inside")
    if name in registry.evaluations.added():
        _check_words(name, info)
    return info


@functools.cache
def _check_words(name: str, info: EvaluationTask) -> None:
    """Checks that some model has what a plugin's evaluation names.

    Raises:
      UserError: none has, the nearest name is given.
    """
    served = load_objective.served()
    abilities = [*capabilities.EMBEDDING, "features", "modalities", *capabilities.METHODS, *served]
    fields = [field.name for cls in (EvaluationSettings, DatasetConfig) for field in dataclasses.fields(cls)]
    others = {"needs": abilities, "taught": served, "sees": MODALITIES, "reads": fields}
    others |= {"fallback_for": list(registry.evaluations)}
    for field, known in others.items():
        for word in filter(None, [info.fallback_for] if field == "fallback_for" else getattr(info, field)):
            if word not in known:
                near = did_you_mean(word, known)
                message = (
                    f"{field}={getattr(info, field)!r}: {word!r} is not known{near}; choose among {', '.join(known)}"
                )
                raise plugin_calls.wrong(registry.evaluations, name, info.evaluator, message)


def make_evaluator(name: str, model: EvaluatedModel) -> Evaluator:
    """The evaluator of a name, for a model.

    Raises:
      UserError: that of a plugin fails, or gives nothing that can be called.
    """
    info = load(name)
    called = plugin_calls.calling(registry.evaluations, name, info.evaluator, "evaluator(EvaluatedModel)")
    with called:
        evaluator = info.evaluator(model.of(name))
    if not callable(evaluator):
        message = f"gives {type(evaluator).__name__}; evaluator(EvaluatedModel) gives (EvaluatedSource) -> Outcome"
        raise plugin_calls.wrong(registry.evaluations, name, info.evaluator, message)
    return evaluator


def check(name: str, source: Source, settings: EvaluationSettings, task: Task | None = None) -> None:
    """Checks that an evaluation fits a source, its settings and the model's task.

    Raises:
      UserError: it does not.
    """
    info = load(name)
    if info.check is not None:
        with plugin_calls.calling(registry.evaluations, name, info.check, "check(source, settings)"):
            info.check(source, settings)
    if info.check_classes is not None and task is not None:
        with plugin_calls.calling(registry.evaluations, name, info.check_classes, "check_classes(source, task)"):
            info.check_classes(source, task)


def evaluate(name: str, evaluator: Evaluator, data: EvaluatedSource) -> Evaluation:
    """Runs an evaluation on a source; all processes take part.

    Args:
      name: of the evaluation.
      evaluator, data: made for the model, and the source.

    Raises:
      UserError: in all processes, where the first one cannot read what the report shows; an example cannot be used.
    """
    info = load(name)
    with plugin_calls.calling(registry.evaluations, name, info.evaluator, "(EvaluatedSource) -> Outcome"):
        try:
            outcome = evaluator(data)
        except BadExample as error:  # examples that cannot be read are named where they are; this is a text
            raise UserError(
                f"data.eval: an example of {data.source.name!r} cannot be used ({error}); repair or remove it"
            ) from error
    if not isinstance(outcome, Outcome):
        message = f"gives {type(outcome).__name__}, not an Outcome"
        raise plugin_calls.wrong(registry.evaluations, name, info.evaluator, message)
    of_corrupted = lambda source: evaluate(name, evaluator, source).metrics
    metrics = outcome.metrics
    if name in registry.evaluations.added():
        metrics = {metric: _number(name, info, metric, value) for metric, value in metrics.items()}
    metrics = metrics | corrupted.curve_metrics(info.curves, metrics, data, of_corrupted)
    artifacts = outcome.artifacts if data.keep else None
    if data.has_report:
        with process_agreement.raise_on_all():
            if isinstance(artifacts, Matching):
                artifacts = example_selection.collect_artifacts(data.features, artifacts, data.decode)
    if isinstance(artifacts, Matching):
        raise TypeError(f"{name}: nothing was collected of the matches")
    unit = results.unit(name, next(iter(data.specs.names), "image"))
    return Evaluation(data.source.name, name, outcome.n, metrics, artifacts, unit)


def _number(name: str, info: EvaluationTask, metric: str, value: Any) -> float:
    """A metric of a plugin's evaluation, as the log and results hold it.

    Raises:
      UserError: it is no finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        message = f"gives a metric {metric!r}={value!r}, which is no finite number"
        raise plugin_calls.wrong(registry.evaluations, name, info.evaluator, message)
    return number
