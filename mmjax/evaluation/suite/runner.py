"""The run of a suite: every source is opened first, and embedded once for all of its tasks."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from mmjax import registry
from mmjax.data import mixture
from mmjax.data.loading.corruption import Sweep
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.source_protocols import Source, SourceOptions
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, prompts, task_choice
from mmjax.evaluation.config import SuiteConfig
from mmjax.evaluation.embedding import features, sharded_examples
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.embedding.features import Embedder
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource, Evaluator
from mmjax.evaluation.results import RETRIEVAL, Evaluation
from mmjax.evaluation.suite.jobs import MEAN_RECALL, Job, mean_recall
from mmjax.io.reader import is_local
from mmjax.tasks.task import Task

_PATIENCE = 5.0  # seconds before a progress bar appears


@dataclasses.dataclass(frozen=True)
class OpenedJob:
    """A job with its sources.

    Attributes:
      job: the dataset and its tasks.
      source: its images, with the prompts that they are evaluated with.
      train: the images that probes learn from, or None.
    """

    job: Job
    source: Source
    train: Source | None


def open_jobs(
    jobs: Sequence[Job],
    options: SourceOptions,
    config: SuiteConfig,
    *,
    task: Task | None = None,
    log: Callable[[str], None] = print,
) -> list[OpenedJob]:
    """Opens all sources.

    Args:
      jobs: whose sources to open.
      options: how to read sources.
      config: the suite's; with `missing='skip'` what cannot be opened is left out.
      task: of the model; None where that is not known.
      log: prints what is left out.

    Raises:
      UserError: naming the first dataset that cannot be opened, with its source, and the others.
    """
    opened, errors = [], {}
    for job in jobs:
        try:
            opened.append(_open(job, options, config, task))
        except UserError as error:
            errors[job.name] = error
    if errors and config.missing == "error":
        name, first = next(iter(errors.items()))
        others = [other for other in errors if other != name]
        more = f" (nor can {', '.join(others)})" if others else ""
        raise UserError(
            f"dataset {name!r} cannot be evaluated{more}: {first}; --config.missing=skip goes on without"
        ) from first
    for name, error in errors.items():
        log(f"left out: {name}: {error}")
    if not opened and jobs:
        raise UserError("none of the datasets can be opened; set root to the folder that holds them")
    return opened


def _open(job: Job, options: SourceOptions, config: SuiteConfig, task: Task | None) -> OpenedJob:
    field = f"datasets.{job.name}"
    keys = dict(image_key=job.image_key, caption_keys=job.caption_keys, label_key=job.label_key)
    options = dataclasses.replace(options, **keys, keys_field=field)
    learns = bool(job.train) and any(evaluation_task.load(task, f"{field}.tasks").needs_train for task in job.tasks)
    _check_exists(job.source, f"{field}.source")
    if learns:
        _check_exists(job.train, f"{field}.train")
    source = mixture.open_source(job.source, options, field=f"{field}.source")
    source.name = job.name
    source = prompts.apply(source, job.prompts, field=f"{field}.prompts")
    seen = "image" if task is None else task_choice.seen_by(task)
    for name in job.tasks:
        info = evaluation_task.load(name, f"{field}.tasks")
        if info.needs_classes and not source.class_names:
            tasks = {other: evaluation_task.load(other) for other in registry.evaluations}
            others = ", ".join(other for other, other_info in tasks.items() if not other_info.needs_classes)
            raise UserError(f"{field}.tasks: {name} needs classes, and {job.source} has none; choose among {others}")
        if task_choice.lacking_classes(info, source):
            raise UserError(
                f"{field}.tasks: {name} wants one class an image, and {job.source} has several; leave it out"
            )
        if missing := task_choice.lacking_fields(name, source, seen):
            raise UserError(f"{field}.tasks: {name} needs {missing}, and {job.source} has none; leave it out")
        evaluation_task.check(name, source, config, task)
    train = None
    if learns:
        train = mixture.open_source(job.train, options, field=f"{field}.train")
        train.name = f"{job.name}/train"
        task_choice.check_train(train, source, f"{field}.train={job.train!r}")
    return OpenedJob(job, source, train)


def _check_exists(spec: str, field: str) -> None:
    """Raises a plain error for a missing folder of tars, which would else be taken for the name of a tar."""
    kind, _, path = spec.partition(":")
    if kind == "wds" and is_local(path) and not any(mark in path for mark in "*?[{:") and not os.path.exists(path):
        raise UserError(f"{field}={spec!r}: there is no {path}")


def make_evaluators(names: Iterable[str], model: EvaluatedModel) -> dict[str, Evaluator]:
    """The evaluators of a model, by name.

    Raises:
      UserError: one cannot be run here, such as METEOR without Java.
    """
    return {name: evaluation_task.make_evaluator(name, model) for name in names}


def run(
    opened: Sequence[OpenedJob],
    tasks: Mapping[str, Sequence[str]],
    evaluators: Mapping[str, Evaluator],
    params: Any,
    batches: BatchRunner,
    specs: InputSpecs,
    embedder: Embedder | None,
    *,
    views: InputSpecs | None = None,
    sweeps: tuple[Sweep, ...] = (),
    log: Callable[[str], None] = print,
) -> Iterator[tuple[Job, Evaluation]]:
    """Yields each evaluation as soon as it is done; every process must take all of them.

    Args:
      opened: the datasets.
      tasks: which to run, by dataset.
      evaluators: of all of them, see `make_evaluators`.
      params: of the model.
      batches: what the evaluators run on.
      specs: how images and other modalities are prepared.
      embedder: of the model with its parameters; every process gets all embeddings and computes all metrics. None
        where no task embeds.
      views: `specs` in several clips and crops; None for one.
      sweeps: corruptions of the examples, see `corrupted.checked_sweeps`.
      log: prints what comes next.
    """
    sources = [source for item in opened for source in (item.source, item.train) if source is not None]
    decode = sharded_examples.make_examples(sources, specs, batches)
    for item in opened:
        job, wanted = item.job, tasks[item.job.name]
        if not wanted:
            continue
        log(f"{job.name}: {len(item.source):,} examples, {', '.join(wanted)}")
        learns = any(evaluation_task.load(task).needs_train for task in wanted)
        if item.train is not None and learns:
            log(f"{job.name}: {len(item.train):,} training examples")
        data = EvaluatedSource(
            item.source,
            params,
            decode,
            specs=specs,
            views=views,
            bound_embedder=embedder,
            train=item.train if learns else None,
            fold_size=job.fold_size,
            has_report=True,
            sweeps=sweeps,
            progress=_progress_bar,
        )
        for task in wanted:
            yield job, _with_mean_recall(evaluation_task.evaluate(task, evaluators[task], data))


def _progress_bar(examples: EvalExamples) -> Iterable[features.Example]:
    return tqdm(
        examples,
        desc=examples.source.name,
        total=len(examples),
        unit="example",
        file=sys.stderr,
        delay=_PATIENCE,
        leave=False,
        disable=jax.process_index() != 0,
    )


def _with_mean_recall(evaluation: Evaluation) -> Evaluation:
    """Retrieval with its main metric in a suite, the mean of both directions."""
    if evaluation.task != RETRIEVAL:
        return evaluation
    return dataclasses.replace(evaluation, metrics=evaluation.metrics | {MEAN_RECALL: mean_recall(evaluation.metrics)})
