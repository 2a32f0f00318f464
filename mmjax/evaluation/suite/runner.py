"""The run of a suite: every source is opened first, and embedded once for all of its tasks."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mmjax.data import mixture
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.record import HasImageGroups, MayBeMultilabel, Source, SourceOptions
from mmjax.errors import UserError
from mmjax.evaluation import example_selection, prompts
from mmjax.evaluation.config import SuiteConfig
from mmjax.evaluation.embedding import features, sharded_examples
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.embedding.features import Embedder, Features
from mmjax.evaluation.evaluators import contrastive, retrieval
from mmjax.evaluation.example_selection import Artifacts, Matching
from mmjax.evaluation.results import CLASSIFICATION, RETRIEVAL, TASKS, Evaluation
from mmjax.evaluation.suite.jobs import SUITE_TASKS, Job
from mmjax.io.reader import is_local
from mmjax.metrics import bootstrap, clip_score, compositional
from mmjax.metrics.classification import confusion_matrix
from mmjax.parallel import process_agreement

_PATIENCE = 5.0  # seconds before a progress bar appears
Outcome = tuple[dict[str, float], Matching | Artifacts | None]


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
    jobs: Sequence[Job], options: SourceOptions, config: SuiteConfig, *, log: Callable[[str], None] = print
) -> list[OpenedJob]:
    """Opens all sources.

    Args:
      jobs: whose sources to open.
      options: how to read sources.
      config: the suite's; with `missing='skip'` what cannot be opened is left out.
      log: prints what is left out.

    Raises:
      UserError: naming the first dataset that cannot be opened, with its source, and the others.
    """
    opened, errors = [], {}
    for job in jobs:
        try:
            opened.append(_open(job, options, config))
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


def _open(job: Job, options: SourceOptions, config: SuiteConfig) -> OpenedJob:
    field = f"datasets.{job.name}"
    options = dataclasses.replace(options, image_key=job.image_key, caption_keys=job.caption_keys, keys_field=field)
    for key, spec in (("source", job.source), ("train", job.train)):
        _check_exists(spec, f"{field}.{key}")
    source = mixture.open_source(job.source, options, field=f"{field}.source")
    source.name = job.name
    several = isinstance(source, MayBeMultilabel) and source.is_multilabel
    source = prompts.apply(source, job.prompts, field=f"{field}.prompts")
    classes = len(source.class_names or ())
    for task in job.tasks:
        if TASKS[task].needs_classes and not classes:
            others = ", ".join(name for name in SUITE_TASKS if not TASKS[name].needs_classes)
            raise UserError(f"{field}.tasks: {task} needs classes, and {job.source} has none; choose among {others}")
        if TASKS[task].needs_one_label and several:
            raise UserError(
                f"{field}.tasks: {task} wants one class an image, and {job.source} has several; leave it out"
            )
    if "few_shot" in job.tasks and classes < config.few_shot.ways:
        raise UserError(f"few_shot.ways={config.few_shot.ways}: {job.name} has {classes} classes; choose fewer ways")
    train = None
    if job.train and any(TASKS[task].needs_train for task in job.tasks):
        train = mixture.open_source(job.train, options, field=f"{field}.train")
        train.name = f"{job.name}/train"
        if len(train.class_names or ()) != classes:
            raise UserError(
                f"{field}.train={job.train!r} has {len(train.class_names or ())} classes, and the test split {classes};"
                " name the training split of the same dataset"
            )
    return OpenedJob(job, source, train)


def _check_exists(spec: str, field: str) -> None:
    """Raises a plain error for a missing folder of tars, which would else be taken for the name of a tar."""
    kind, _, path = spec.partition(":")
    if kind == "wds" and is_local(path) and not any(mark in path for mark in "*?[{:") and not os.path.exists(path):
        raise UserError(f"{field}={spec!r}: there is no {path}")


def run(
    opened: Sequence[OpenedJob],
    tasks: Mapping[str, Sequence[str]],
    embedder: Embedder,
    batches: BatchRunner,
    image_spec: ImageSpec,
    config: SuiteConfig,
    *,
    log: Callable[[str], None] = print,
) -> Iterator[tuple[Job, Evaluation]]:
    """Yields each evaluation as soon as it is done; every process must take all of them.

    Args:
      opened: the datasets.
      tasks: which to run, by dataset.
      embedder: of the model; every process gets all embeddings and computes all metrics.
      batches: the embedder's.
      image_spec: how images are prepared.
      config: the suite's.
      log: prints what comes next.
    """
    sources = [source for item in opened for source in (item.source, item.train) if source is not None]
    examples = sharded_examples.make_examples(sources, image_spec, batches)

    def with_progress(source: Source) -> Iterable[features.Example]:
        return tqdm(
            examples(source),
            desc=source.name,
            total=len(source),
            unit="image",
            file=sys.stderr,
            delay=_PATIENCE,
            leave=False,
            disable=jax.process_index() != 0,
        )

    for item in opened:
        job, wanted = item.job, tasks[item.job.name]
        if not wanted:
            continue
        log(f"{job.name}: {len(item.source):,} images, {', '.join(wanted)}")
        test = features.embed_source(item.source, embedder, with_progress)
        train = None
        if item.train is not None and any(TASKS[task].needs_train for task in wanted):
            log(f"{job.name}: {len(item.train):,} training images")
            train = features.embed_source(item.train, embedder, with_progress)
        for task in wanted:
            metrics, artifacts = _EVALUATE[task](test, train, embedder, job, config)
            with process_agreement.raise_on_all():
                if isinstance(artifacts, Matching):
                    artifacts = _collect_on_process_0(test, artifacts, examples)
            yield job, Evaluation(job.name, task, len(test), metrics, artifacts)


def _collect_on_process_0(test: Features, matching: Matching, examples: features.Examples) -> Artifacts | None:
    return example_selection.collect_artifacts(test, matching, examples) if jax.process_index() == 0 else None


def _classify(test: Features, _: Any, embedder: Embedder, job: Job, config: SuiteConfig) -> Outcome:
    # The held-out loss depends on the batch, which is no part of a suite's settings.
    metrics, matching = contrastive.classify(test, embedder, with_loss=False)
    if config.bootstrap and matching.confusion is not None:
        # A mean does not depend on the order of its values, so the counts are enough.
        right = int(matching.confusion.trace())
        values = np.arange(len(test)) < right
        interval = bootstrap.bootstrap_interval(values, resamples=config.bootstrap, seed=config.seed)
        metrics |= interval.metrics("acc1")
    return metrics, matching


def _retrieve(test: Features, _: Any, embedder: Embedder, job: Job, config: SuiteConfig) -> Outcome:
    metrics, matching = contrastive.retrieve(
        test,
        embedder,
        fold_size=job.fold_size or None,
        bootstrap=config.bootstrap,
        seed=config.seed,
        with_loss=False,
    )
    sides = ("image_retrieval_recall@1", "text_retrieval_recall@1")
    return metrics | {"mean_recall@1": sum(metrics[side] for side in sides) / 2}, matching


def _linear_probe(test: Features, train: Features, embedder: Embedder, job: Job, config: SuiteConfig) -> Outcome:
    from mmjax.evaluation.evaluators import probes

    result = probes.linear_probe(*_pairs(train, test), classes=len(test.class_names), seed=config.seed)
    metrics = result.metrics | {"inverse_l2": result.inverse_l2, "converged": float(result.converged)}
    return metrics, _confusion(test, result.predictions)


def _knn(test: Features, train: Features, embedder: Embedder, job: Job, config: SuiteConfig) -> Outcome:
    from mmjax.evaluation.evaluators import probes

    settings = config.knn
    classes = len(test.class_names)
    result = probes.knn(*_pairs(train, test), classes=classes, ks=settings.ks, vote=settings.vote)
    k = settings.ks[0]
    return result.metrics, _confusion(test, result.predictions[k], f"k = {k}")


def _confusion(test: Features, predictions: np.ndarray, what: str = "") -> Artifacts:
    """The artifacts of predictions alone."""
    names = test.class_names
    return Artifacts([], [], confusion_matrix(predictions, test.single_labels, len(names)), names, what=what)


def _few_shot(test: Features, _: Any, embedder: Embedder, job: Job, config: SuiteConfig) -> Outcome:
    from mmjax.evaluation.evaluators import probes

    settings = config.few_shot
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
            seed=config.seed,
        )
        metrics |= {f"{settings.ways}way_{shots}shot_{name}": value for name, value in result.items()}
    return metrics, None


def _select_captions(test: Features, _: Any, embedder: Embedder, job: Job, config: SuiteConfig) -> Outcome:
    wrong = [i for i, captions in enumerate(test.captions) if len(captions) != 2]
    if wrong:
        raise UserError(
            f"datasets.{job.name}: image {wrong[0]} has {len(test.captions[wrong[0]])} captions;"
            " image_caption_selection wants two for each, the right one first"
        )
    _, embeddings, index = retrieval.embed_unique(
        embedder.texts, [text for captions in test.captions for text in captions]
    )
    positive, negative = embeddings[index[0::2]], embeddings[index[1::2]]
    if isinstance(test.source, HasImageGroups) and test.source.images_per_example == 2:
        # An example's two images are consecutive, each with its own caption first.
        pairs = lambda rows: rows.reshape(-1, 2, rows.shape[-1])
        return compositional.winoground_metrics(pairs(test.embeddings), pairs(positive)), None
    return compositional.sugarcrepe_metrics(test.embeddings, positive, negative), None


def _clip_score(test: Features, _: Any, embedder: Embedder, job: Job, config: SuiteConfig) -> Outcome:
    silent = [i for i, captions in enumerate(test.captions) if not captions]
    if silent:
        raise UserError(f"datasets.{job.name}: image {silent[0]} has no caption; clip_score wants one for each")
    prefix = config.clip_score.prefix
    _, embeddings, index = retrieval.embed_unique(
        embedder.texts, [prefix + text for captions in test.captions for text in captions]
    )
    by_image = np.split(embeddings[index], np.cumsum([len(captions) for captions in test.captions])[:-1])
    first = np.stack([rows[0] for rows in by_image])
    values = {"clip_score": clip_score.clip_scores(test.embeddings, first)}
    if all(len(rows) > 1 for rows in by_image):
        references = [rows[1:] for rows in by_image]
        values["ref_clip_score"] = clip_score.ref_clip_scores(test.embeddings, first, references)
    metrics = {name: float(scores.mean()) for name, scores in values.items()}
    for name, scores in values.items() if config.bootstrap else ():
        interval = bootstrap.bootstrap_interval(scores, resamples=config.bootstrap, seed=config.seed)
        metrics |= interval.metrics(name)
    return metrics, None


def _pairs(train: Features, test: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return train.embeddings, train.single_labels, test.embeddings, test.single_labels


# By task, the function that evaluates it.
_EVALUATE: dict[str, Callable[..., Outcome]] = {
    CLASSIFICATION: _classify,
    RETRIEVAL: _retrieve,
    "linear_probe": _linear_probe,
    "knn": _knn,
    "few_shot": _few_shot,
    "image_caption_selection": _select_captions,
    "clip_score": _clip_score,
}
