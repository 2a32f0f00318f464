"""The choice of evaluations: what a model and a source have for them, and which are run where none is named."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax import plugin_calls, registry
from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.loading.corruption import parse_sweeps
from mmjax.data.loading.eval_examples import unreadable
from mmjax.data.record import Record
from mmjax.data.source_protocols import HasHardNegatives, MayBeMultilabel, Source
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task
from mmjax.evaluation.config import EvaluationSettings
from mmjax.evaluation.evaluation_task import EvaluationTask
from mmjax.models.fusion.config import FusedConfig
from mmjax.tasks import capabilities
from mmjax.tasks.task import Task


def fits_model(info: EvaluationTask, task: Task) -> bool:
    """Whether a model has what an evaluation needs."""
    is_trained = not info.taught or not task.taught.isdisjoint(info.taught)
    if info.sees and seen_by(task) not in info.sees:
        return False
    return is_trained and capabilities.abilities(task).issuperset(info.needs)


def supported(task: Task) -> list[str]:
    """Names of the evaluations that a model has all for."""
    return [name for name in registry.evaluations if fits_model(evaluation_task.load(name), task)]


def check_model(names: Iterable[str], task: Task, field: str) -> None:
    """Checks that a model has what evaluations need.

    Args:
      names: of the evaluations.
      task: of the model.
      field: of the config that names them, to begin errors with.

    Raises:
      UserError: there is no such evaluation, or it is not for the model; names those that are.
    """
    for name in names:
        if not fits_model(evaluation_task.load(name, field), task):
            known = supported(task)
            remedy = f"; choose among {', '.join(known)}" if known else ", nor is any other; train it further"
            raise UserError(f"{field}: {name} is not for {capabilities.describe_model(task.config)}{remedy}")


def default_names(task: Task, source: Source) -> list[str]:
    """The evaluations that are run on a source where none is named, of those that a model has all for."""
    has_negatives = isinstance(source, HasHardNegatives) and source.has_hard_negatives
    infos = {name: evaluation_task.load(name) for name in registry.evaluations}
    return [
        name
        for name, info in infos.items()
        if info.by_default != "never" and info.of_hard_negatives == has_negatives and fits_model(info, task)
    ]


def lacking_classes(info: EvaluationTask, source: Source) -> str:
    """What a source's classes lack for an evaluation, in words; "" where nothing."""
    if info.needs_classes and not source.class_names:
        return "classes"
    if info.needs_one_label and isinstance(source, MayBeMultilabel) and source.is_multilabel:
        return "one class an image"
    return ""


def lacking_fields(name: str, source: Source, seen: str = "image") -> str:
    """What a source's first record lacks for an evaluation, in words; "" where nothing.

    Args:
      name: of the evaluation.
      source: what is to be evaluated on.
      seen: the modality that the model sees in place of images; "" for any of several, images among them.

    Raises:
      UserError: the record cannot be read, or a plugin's evaluation fails to look at it.
    """
    info = evaluation_task.load(name)
    if not len(source) or not (info.embeds or info.missing_fields is not EvaluationTask.missing_fields):
        return ""
    record = _first_record(source)
    if not seen:
        is_empty = record.get("image") is None and not record.get("modalities")
        return "modalities" if info.embeds and is_empty else info.missing_fields(record)
    if seen != "image":
        record = Record(**{**record, "image": (record.get("modalities") or {}).get(seen)})
    if info.embeds and record.get("image") is None:
        return "images" if seen == "image" else seen
    with plugin_calls.calling(registry.evaluations, name, info.missing_fields, "missing_fields(record)"):
        return info.missing_fields(record).replace("image", seen)


def seen_by(task: Task) -> str:
    """The modality that a model sees in place of images, as `lacking_fields` has it."""
    return "" if isinstance(task.config.model, FusedConfig) else task.seen


def _first_record(source: Source) -> Record:
    try:
        with one_example():
            return source[0]
    except BadExample as error:
        raise unreadable(source, 0, error) from error.__cause__ or error


def check_train(train: Source, source: Source, field: str) -> None:
    """Checks that a training split has the classes of the split that is evaluated.

    Args:
      train: what is learned from.
      source: what is evaluated.
      field: that names the training split, with its value.

    Raises:
      UserError: it has another number of them.
    """
    classes, train_classes = len(source.class_names or ()), len(train.class_names or ())
    if classes != train_classes:
        raise UserError(
            f"{field} has {train_classes} classes, and the test split {classes};"
            " name the training split of the same dataset"
        )


def check_numbers(settings: EvaluationSettings) -> None:
    """Checks the numbers of settings, and what is to be corrupted.

    Raises:
      UserError: one is too small, or `corrupt` is not of its form.
    """
    parse_sweeps(settings.corrupt, f"{settings.prefix}corrupt")
    episodes = settings.few_shot
    least: dict[str, tuple[int | tuple[int, ...], int]] = {
        "bootstrap": (settings.bootstrap, 0),
        "knn.ks": (settings.knn.ks, 1),
        "few_shot.ways": (episodes.ways, 2),
        "few_shot.shots": (episodes.shots, 1),
        "few_shot.queries": (episodes.queries, 1),
        "few_shot.episodes": (episodes.episodes, 2),
        "source_separation.mixtures": (settings.source_separation.mixtures, 0),
        "video.clips": (settings.video.clips, 1),
        "video.crops": (settings.video.crops, 1),
        "audio.clips": (settings.audio.clips, 1),
    }
    for field, (value, low) in least.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or min(numbers) < low:
            wanted = "a number" if type(value) is int else "numbers"
            raise UserError(f"{settings.prefix}{field}={value!r}: wants {wanted} from {low} up")


def unread_fields(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Fields of settings that no evaluation of some reads, each with the evaluations that would.

    Args:
      names: of the evaluations; none stands for those that run by default.
      settings: by dotted path, without the prefix.
    """
    tasks = {name: evaluation_task.load(name) for name in registry.evaluations}
    active = names or [name for name, info in tasks.items() if info.by_default != "never"]
    result = {}
    for field in settings:
        group = field.partition(".")[0]
        readers = [name for name, info in tasks.items() if _reads(name, info, group)]
        if readers and not set(readers) & set(active):
            result[field] = readers
    return result


def _reads(name: str, info: EvaluationTask, field: str) -> bool:
    """Whether an evaluation reads a field, or group of fields, of `EvalConfig`."""
    if field == "train":
        return info.needs_train
    if field == "seed" and "bootstrap" in info.reads:
        return True
    if field in ("video", "audio"):
        return info.takes_views
    if field == "corrupt":
        return bool(info.curves)
    return field in (name, *info.reads) or f"eval.{field}" in info.reads_of_run
