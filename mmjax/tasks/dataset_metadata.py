"""Metadata of a run's data that its model is built from: answers, shapes of modalities."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from mmjax.data import record as record_lib
from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError
from mmjax.metrics import vqa_answers
from mmjax.tasks import validate_fusion
from mmjax.tasks.config_queries import has_image, has_text, text_kind

Mixture = Sequence[tuple[record_lib.Source, Any]]
_FIRST = 3  # examples of a source that are looked at before anything is made


@dataclasses.dataclass(frozen=True)
class DatasetMetadata:
    """What a task takes from its training data besides the examples; a checkpoint carries it.

    Attributes:
      answers: those that a question is classified among.
      shapes: of each modality but the record's image: (name, shape) pairs.
    """

    answers: tuple[str, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "DatasetMetadata":
        """Reads what `dataclasses.asdict` and JSON made of it."""
        shapes = tuple((name, tuple(shape)) for name, shape in stored.get("shapes", ()))
        return cls(tuple(stored.get("answers", ())), shapes)


def read_dataset_metadata(config: ml_collections.ConfigDict, mixture: Mixture) -> DatasetMetadata:
    """What the task takes from its training data.

    Raises:
      UserError: the data have not what the task needs.
    """
    if has_text(config) and text_kind(config) != "captions":
        _check_questions(config, mixture)
    return DatasetMetadata(
        answers=_answer_names(config, mixture) if config.objectives.vqa else (),
        shapes=_modality_shapes(config, mixture) if "encoders" in config.model else (),
    )


def _check_questions(config: ml_collections.ConfigDict, mixture: Mixture) -> None:
    """Checks that the first examples of every source are questions; one alone might be a bad one.

    Raises:
      UserError: none of them is.
    """

    def has_question(source: record_lib.Source, index: int) -> bool:
        try:
            record = source[index]
        except (BadExample, OSError):  # counted when it is its turn
            return True
        return bool(record.get("question") and record.get("answers"))

    for source, _ in mixture:
        if not any(has_question(source, index) for index in range(min(_FIRST, len(source)))):
            raise UserError(
                f"data.train: {source.name!r} has no questions with answers, which data.texts={text_kind(config)!r}"
                " needs; give questions (vqa:FILE), or set data.texts='captions'"
            )


def _answer_names(config: ml_collections.ConfigDict, mixture: Mixture) -> tuple[str, ...]:
    """The answers of `data.answers`, or of the training data itself."""
    if config.data.answers:
        names = tuple(vqa_answers.read_answers(config.data.answers))
    else:
        known = [source.answer_names for source, _ in mixture if getattr(source, "answer_names", None)]
        if len(known) != 1:
            raise UserError(
                f"data.answers is empty, and {len(known)} sources of data.train={config.data.train!r} have answers of"
                " their own; name a file with one answer a line"
            )
        names = tuple(known[0])
    if len(names) < 2:
        where = "data.answers" if config.data.answers else "data.train"
        raise UserError(
            f"{where}={config.data[where[5:]]!r} has {len(names)} answers to choose among; give two or more"
        )
    if len(names) != config.model.answers:
        raise UserError(f"model.answers={config.model.answers}, but there are {len(names)}; set it to {len(names)}")
    return names


def _modality_shapes(config: ml_collections.ConfigDict, mixture: Mixture) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Shapes of the arrays that the encoders read.

    Raises:
      UserError: a source lacks a modality, gives it another shape than others do or one that its encoder cannot read,
        or has other classes than the model.
    """
    wanted = sorted(name for name in config.model.encoders if not (name == "image" and has_image(config)))
    shapes: dict[str, tuple[int, ...]] = {}
    for source, _ in mixture:
        classes = len(source.class_names or ())
        if classes != config.model.classes:
            remedy = "set it to that" if classes else "give data with classes and modalities, such as 'sensors'"
            raise UserError(f"model.classes={config.model.classes}, but {source.name!r} has {classes}; {remedy}")
        declared = getattr(source, "modality_shapes", {})
        for name in wanted:
            if name not in declared:
                raise UserError(
                    f"model.encoders.{name}: {source.name!r} has no such modality; it has"
                    f" {', '.join(declared) or 'none'}"
                )
            if shapes.setdefault(name, tuple(declared[name])) != tuple(declared[name]):
                raise UserError(f"model.encoders.{name}: the sources of data.train give it different shapes")
    validate_fusion.check_arrays(config.model.to_dict(), shapes)
    return tuple(sorted(shapes.items()))
