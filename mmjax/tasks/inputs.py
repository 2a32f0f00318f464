"""What a task reads: preprocessing, tokenizer, training examples and the shapes of their batches."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from mmjax import eot
from mmjax.data import answers as answers_lib
from mmjax.data import examples, frames, images, prepare, source, specs, tokenizers
from mmjax.data.faults import BadExample
from mmjax.data.packing import row_length
from mmjax.errors import UserError, choose
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import packing
from mmjax.tasks import checking_fused, resizing
from mmjax.tasks.image_fields import has_image

Mixture = Sequence[tuple[source.Source, Any]]
TEXTS = ("captions", "questions", "answers")
_FIRST = 3  # examples of a source that are looked at before anything is made


def has_text(config: ml_collections.ConfigDict) -> bool:
    """Whether the model reads or writes text."""
    return "text" in config.model


def text_kind(config: ml_collections.ConfigDict) -> str:
    """Which texts of a record the model is given: `data.texts`."""
    return choose("data.texts", config.data.texts, TEXTS)


def make_tokenizer(config: ml_collections.ConfigDict, *, file: bytes | None = None) -> tokenizers.Tokenizer | None:
    """The tokenizer of `data.tokenizer`, checked against the text tower; None for a model without text.

    Args:
      config: the run's config.
      file: the tokenizer's model file, where a checkpoint carries it.

    Raises:
      UserError: it has more ids than the model's table, another end-of-text id where the model pools on it, or another
        separator where the model looks for it.
    """
    if not has_text(config):
        return None
    text = config.model.text
    tokenizer = tokenizers.make_tokenizer(config.data.tokenizer, text_length(config), file=file)
    if tokenizer.vocab_size > text.vocab_size:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} has {tokenizer.vocab_size} ids, more than"
            f" model.text.vocab_size={text.vocab_size}; set that to {tokenizer.vocab_size}"
        )
    if text.get("pool") == "eos" and text.eos_id == eot.LARGEST_ID:
        _check_largest(config.data.tokenizer, tokenizer)
    elif text.get("pool") == "eos" and tokenizer.eos_id != text.eos_id:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} ends texts with id {tokenizer.eos_id}, but"
            f" model.text.eos_id={text.eos_id}; set that to {tokenizer.eos_id}"
        )
    if config.model.get("prefix_text") and tokenizer.sep_id is None:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} has no separator, by which model.prefix_text=True tells where a"
            " question ends; set that to False"
        )
    if config.model.get("prefix_text") and tokenizer.sep_id != text.sep_id:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} ends questions with id {tokenizer.sep_id}, but"
            f" model.text.sep_id={text.sep_id}; set that to {tokenizer.sep_id}"
        )
    return tokenizer


def _check_largest(spec: str, tokenizer: tokenizers.Tokenizer) -> None:
    """Checks that a text without added tokens has its largest id at its end, where `model.text.eos_id=-1` looks.

    Raises:
      UserError: it has not.
    """
    ids, mask = tokenizer(["a photo of a cat"])
    if eot.position(ids, eot.LARGEST_ID)[0] != mask.sum() - 1:
        raise UserError(
            f"data.tokenizer={spec!r} ends texts with id {tokenizer.eos_id}, which is not their largest id, and"
            f" model.text.eos_id={eot.LARGEST_ID} pools there; give token ids, or the model's own tokenizer"
        )


def text_length(config: ml_collections.ConfigDict) -> int:
    """Tokens of a text in a batch."""
    return config.data.context_length or config.model.text.context_length


def room_to_write(config: ml_collections.ConfigDict) -> int:
    """How many tokens a model can write after the longest prompt there may be, the first token or a question.

    Each needs a position but the last one, which is never read.
    """
    prompt = text_length(config) - 1 if text_kind(config) == "answers" else 1
    return config.model.text.context_length + 1 - prompt


def open_mixture(config: ml_collections.ConfigDict) -> Mixture:
    """The sources of `data.train` with their weights.

    Raises:
      UserError: anything wrong with them.
    """
    return specs.parse_mixture(config.data.train, specs.make_options(config))


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What a task takes from its training data besides the examples; a checkpoint carries it.

    Attributes:
      answers: those that a question is classified among.
      shapes: of each modality but the record's image: (name, shape) pairs.
    """

    answers: tuple[str, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "DataFacts":
        """Reads what `dataclasses.asdict` and JSON made of it."""
        shapes = tuple((name, tuple(shape)) for name, shape in stored.get("shapes", ()))
        return cls(tuple(stored.get("answers", ())), shapes)


def read_facts(config: ml_collections.ConfigDict, mixture: Mixture) -> DataFacts:
    """What the task takes from its training data.

    Raises:
      UserError: the data have not what the task needs.
    """
    if has_text(config) and text_kind(config) != "captions":
        _check_asked(config, mixture)
    return DataFacts(
        answers=_answer_names(config, mixture) if config.objectives.vqa else (),
        shapes=_modality_shapes(config, mixture) if "encoders" in config.model else (),
    )


def _check_asked(config: ml_collections.ConfigDict, mixture: Mixture) -> None:
    """Checks that the first examples of every source are questions; one alone might be a bad one.

    Raises:
      UserError: none of them is.
    """

    def asks(each: source.Source, index: int) -> bool:
        try:
            record = each[index]
        except (BadExample, OSError):  # told when it is its turn
            return True
        return bool(record.get("question") and record.get("answers"))

    for each, _ in mixture:
        if not any(asks(each, index) for index in range(min(_FIRST, len(each)))):
            raise UserError(
                f"data.train: {each.name!r} has no questions with answers, which data.texts={text_kind(config)!r}"
                " needs; give questions (vqa:FILE), or set data.texts='captions'"
            )


def _answer_names(config: ml_collections.ConfigDict, mixture: Mixture) -> tuple[str, ...]:
    """The answers of `data.answers`, or of the training data itself."""
    if config.data.answers:
        names = tuple(answers_lib.read_answers(config.data.answers))
    else:
        known = [each.answer_names for each, _ in mixture if getattr(each, "answer_names", None)]
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
    for each, _ in mixture:
        classes = len(each.class_names or ())
        if classes != config.model.classes:
            remedy = "set it to that" if classes else "give data with classes and modalities, such as 'sensors'"
            raise UserError(f"model.classes={config.model.classes}, but {each.name!r} has {classes}; {remedy}")
        declared = getattr(each, "modality_shapes", {})
        for name in wanted:
            if name not in declared:
                raise UserError(
                    f"model.encoders.{name}: {each.name!r} has no such modality; it has {', '.join(declared) or 'none'}"
                )
            if shapes.setdefault(name, tuple(declared[name])) != tuple(declared[name]):
                raise UserError(f"model.encoders.{name}: the sources of data.train give it different shapes")
    checking_fused.check_arrays(config.model.to_dict(), shapes)
    return tuple(sorted(shapes.items()))


def make_preparer(
    config: ml_collections.ConfigDict,
    image_spec: images.ImageSpec | None,
    tokenizer: tokenizers.Tokenizer | None,
    facts: DataFacts,
) -> prepare.Preparer:
    """What makes of a record what the task is trained on."""
    if "encoders" in config.model:
        arrays = [name for name, _ in facts.shapes]
        gaps = tuple(name for name in arrays if config.model.encoders[name].kind != "image")
        return prepare.ModalityPreparer(facts.shapes, image_spec, gaps)
    kind = text_kind(config)
    if kind == "questions":
        return prepare.QuestionPreparer(image_spec, tokenizer, facts.answers)
    return (prepare.AnswerPreparer if kind == "answers" else prepare.PairPreparer)(image_spec, tokenizer)


def make_train_examples(
    config: ml_collections.ConfigDict, mixture: Mixture, preparer: prepare.Preparer
) -> examples.TrainExamples:
    """The training examples of a mixture, by position.

    Raises:
      UserError: anything wrong with the data.
    """
    return examples.TrainExamples(
        mixture, seed=config.seed, prepare=preparer, order=config.data.order, window=config.data.window
    )


def batch_shapes(config: ml_collections.ConfigDict, mesh: Mesh, *, packed_rows: int = 0) -> dict[str, Any]:
    """Shapes of a global batch as the pipeline makes it, with shardings; images that the device resizes are in frames.

    Args:
      config: the run's config.
      mesh: the device mesh.
      packed_rows: rows a device and microbatch has for packed texts, see `mmjax.data.packing`; 0 for padded texts.

    Raises:
      UserError: a model of several modalities, whose shapes only its data tell.
    """
    rows = config.batch_size
    if "encoders" in config.model:
        raise UserError(f"model.kind={config.model.kind!r}: its batch has the shapes of its data; it cannot be planned")
    size = config.model.image.image_size
    length = text_length(config)
    shapes = {
        "image": ((rows, size, size, 3), jnp.uint8),
        "text": ((rows, length), jnp.int32),
        "text_mask": ((rows, length), jnp.bool_),
        "id": ((rows, 2), jnp.uint32),
    }
    frame = resizing.planned_frame(config, mesh.devices.flat[0].platform)
    if frame:
        shapes |= {"image": ((rows, frame, frame, 3), jnp.uint8), "image_box": ((rows, frames.BOX), jnp.int32)}
    kind = text_kind(config)
    if kind == "questions":
        shapes["answer"] = ((rows, config.model.answers), jnp.float32)
    elif kind == "answers":
        shapes["target_mask"] = ((rows, length), jnp.bool_)
    sharding = mesh_lib.batch_sharding(mesh)
    shape_of = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    found = {name: shape_of(*each) for name, each in shapes.items()}
    if packed_rows:
        place = shape_of((rows,), jnp.int32)
        found["text_places"] = packing.TextPlaces(place, place, packed_rows, row_length(length))
    return found
