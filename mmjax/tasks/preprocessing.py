"""What a task takes from its data: tokenizer, training examples, their metadata and the shapes of their batches."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.config.schema import RunConfig
from mmjax.data import mixture as mixture_lib
from mmjax.data import source_protocols
from mmjax.data.image import transforms
from mmjax.data.loading import (
    example_transforms,
    inputs,
    modality_transform,
    prompt_transforms,
    question_transforms,
    text_ids,
    train_examples,
)
from mmjax.data.loading.separation_transform import SeparationTransform
from mmjax.data.table_columns import TableColumns
from mmjax.data.text import make_tokenizer as make_tokenizer_lib
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.data.text.tokenizer import LARGEST_ID, end_of_text_position
from mmjax.errors import UserError
from mmjax.metrics import vqa_answers
from mmjax.models.config import FusionHeadsConfig, SeparatorConfig
from mmjax.models.fusion.config import FusedConfig, ImageEncoderConfig, TableEncoderConfig
from mmjax.models.text_config import TextTowerConfig
from mmjax.parallel import mesh as mesh_lib
from mmjax.tasks import (
    class_labels,
    config_queries,
    decoders,
    image_fields,
    load_objective,
    separation_data,
    synchronization,
    table_fields,
    text_records,
    validate_fusion,
)
from mmjax.tasks.config_queries import has_image, has_text, text_length
from mmjax.tasks.first_records import first_records

Mixture = Sequence[tuple[source_protocols.Source, Any]]


def make_tokenizer(config: RunConfig, *, file: bytes | None = None) -> tokenizer_lib.Tokenizer | None:
    """The tokenizer of `data.tokenizer`, checked against the text tower; None for a model without text.

    Args:
      config: the run's config.
      file: the tokenizer's model file, where a checkpoint carries it.

    Raises:
      UserError: it has more ids than the model's table, or another end-of-text id, separator or padding than it reads.
    """
    among_others = config_queries.encoder_of_texts(config)
    if among_others is None and not has_text(config):
        return None
    text = among_others or config_queries.text_config(config)
    length = text.context_length if among_others is not None else text_length(config)
    tokenizer = make_tokenizer_lib.make_tokenizer(config.data.tokenizer, length, file=file)
    if tokenizer.vocab_size > text.vocab_size:
        field = "model.text" if among_others is None else "model.encoders.text"
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} has {tokenizer.vocab_size} ids, more than"
            f" {field}.vocab_size={text.vocab_size}; set that to {tokenizer.vocab_size}"
        )
    if isinstance(text, TextTowerConfig) and text.pool == "eos":
        _check_end(config.data.tokenizer, tokenizer, text.eos_id)
    if (pad_id := getattr(text, "pad_id", None)) not in (None, tokenizer.pad_id):
        pads = f"data.tokenizer={config.data.tokenizer!r} pads texts with id {tokenizer.pad_id}, but model.text.pad_id="
        raise UserError(f"{pads}{pad_id}; set it to {tokenizer.pad_id}")
    if field := config_queries.separating_field(config.model):
        _check_separator(config.data.tokenizer, tokenizer, getattr(text, "sep_id", None), field)
    return tokenizer


def _check_end(spec: str, tokenizer: tokenizer_lib.Tokenizer, eos_id: int) -> None:
    """Checks that texts end where the model pools.

    Raises:
      UserError: they do not.
    """
    if eos_id == LARGEST_ID:
        _check_largest(spec, tokenizer)
    elif tokenizer.eos_id != eos_id:
        raise UserError(
            f"data.tokenizer={spec!r} ends texts with id {tokenizer.eos_id}, but model.text.eos_id={eos_id}; set that"
            f" to {tokenizer.eos_id}"
        )


def _check_separator(spec: str, tokenizer: tokenizer_lib.Tokenizer, sep_id: int | None, field: str) -> None:
    """Checks that questions end where the model looks for it, since a field of its says so.

    Raises:
      UserError: they do not.
    """
    if tokenizer.sep_id is None:
        raise UserError(
            f"data.tokenizer={spec!r} has no separator, by which {field} tells where a question ends; leave that out"
        )
    if tokenizer.sep_id != sep_id:
        raise UserError(
            f"data.tokenizer={spec!r} ends questions with id {tokenizer.sep_id}, but model.text.sep_id={sep_id}; set"
            f" that to {tokenizer.sep_id}"
        )


def _check_largest(spec: str, tokenizer: tokenizer_lib.Tokenizer) -> None:
    """Checks that a text without added tokens has its largest id at its end, where `model.text.eos_id=-1` looks.

    Raises:
      UserError: it has not.
    """
    ids, mask = tokenizer(["a photo of a cat"])
    if end_of_text_position(ids, LARGEST_ID)[0] != mask.sum() - 1:
        raise UserError(
            f"data.tokenizer={spec!r} ends texts with id {tokenizer.eos_id}, which is not their largest id, and"
            f" model.text.eos_id={LARGEST_ID} pools there; give token ids, or the model's own tokenizer"
        )


def open_mixture(config: RunConfig) -> Mixture:
    """The sources of `data.train` with their weights.

    Raises:
      UserError: anything wrong with them.
    """
    return mixture_lib.parse_mixture(config.data.train, source_options(config))


def source_options(config: RunConfig, *, evaluation: bool = False) -> source_protocols.SourceOptions:
    """How the sources of `data.train` are read, or those of `data.eval`."""
    size = config_queries.image_size(config) if has_image(config) else source_protocols.DEFAULT_OPTIONS.image_size
    classes = config.model.classes if isinstance(config.model, FusedConfig) else 0
    keys = config.eval if evaluation else None
    return mixture_lib.make_options(config.data, image_size=size, classes=classes, eval_keys=keys)


@dataclasses.dataclass(frozen=True)
class DatasetMetadata:
    """What a task takes from its training data besides the examples; a checkpoint carries it.

    Attributes:
      answers: those that a question is classified among.
      shapes: of each modality whose arrays are taken as the data have them: (name, shape) pairs.
      columns: of tables, with their statistics and categories; None where none are named.
      class_names: those that a classifier tells apart.
    """

    answers: tuple[str, ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    columns: TableColumns | None = None
    class_names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain Python, from which `from_json` makes an equal one again."""
        facts: dict[str, Any] = {"answers": list(self.answers), "class_names": list(self.class_names)}
        facts["shapes"] = [[name, list(shape)] for name, shape in self.shapes]
        return facts if self.columns is None else facts | {"table": self.columns.to_dict()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "DatasetMetadata":
        """Reads what `to_json` gave."""
        shapes = tuple((name, tuple(shape)) for name, shape in stored.get("shapes", ()))
        table = stored.get("table")
        columns = None if table is None else TableColumns.from_dict(table, where="facts.table")
        return cls(tuple(stored.get("answers", ())), shapes, columns, tuple(stored.get("class_names", ())))


def read_dataset_metadata(config: RunConfig, mixture: Mixture, columns: TableColumns | None = None) -> DatasetMetadata:
    """What the task takes from its training data, with the columns of their tables.

    Raises:
      UserError: the data have not what the task needs.
    """
    if has_text(config):
        text_records.check_records(config, [source for source, _ in mixture])
    sources, model = [source for source, _ in mixture], config.model
    if isinstance(model, FusedConfig) and model.image is not None:
        class_labels.check_images(sources)
    if isinstance(model, SeparatorConfig):
        separation_data.check_sounds(sources)
    if columns is not None:
        table_fields.check_columns(config, columns)
    return DatasetMetadata(
        answers=_answer_names(config, mixture) if "answers" in load_objective.taught(config) else (),
        shapes=_modality_shapes(config, mixture),
        columns=columns,
        class_names=class_labels.names_of_sources(model, sources) if isinstance(model, FusedConfig) else (),
    )


def _answer_names(config: RunConfig, mixture: Mixture) -> tuple[str, ...]:
    """The answers of `data.answers`, or of the training data itself."""
    if config.data.answers:
        names = tuple(vqa_answers.read_answers(config.data.answers))
    else:
        sources = [source for source, _ in mixture if isinstance(source, source_protocols.HasAnswers)]
        known = [source.answer_names for source in sources if source.answer_names]
        if len(known) != 1:
            raise UserError(
                f"data.answers is empty, and {len(known)} sources of data.train={config.data.train!r} have answers of"
                " their own; name a file with one answer a line"
            )
        names = tuple(known[0])
    if len(names) < 2:
        field, value = ("answers", config.data.answers) if config.data.answers else ("train", config.data.train)
        raise UserError(f"data.{field}={value!r} has {len(names)} answers to choose among; give two or more")
    head = config.model.answers if isinstance(config.model, FusionHeadsConfig) else 0
    if len(names) != head:
        raise UserError(f"model.answers={head}, but there are {len(names)}; set it to {len(names)}")
    return names


def _modality_shapes(config: RunConfig, mixture: Mixture) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Shapes of the arrays that the encoders read as the data have them.

    Raises:
      UserError: a source lacks a modality, gives it another shape than others do or one that its encoder cannot read.
    """
    model = config.model
    encoders = config_queries.encoders(model)
    prefix = "model.encoders." if isinstance(model, FusedConfig) else "model."
    shapes: dict[str, tuple[int, ...]] = {}
    for source, _ in mixture:
        declared = source.modality_shapes if isinstance(source, source_protocols.HasModalities) else {}
        entries = _first_entries(source, encoders)
        for name in sorted(encoders):
            entry: Any = entries.get(name)
            if name == "text" and config_queries.encoder_of_texts(config) is not None:
                continue
            if entry is None and name not in declared:
                raise UserError(
                    f"{prefix}{name}: {source.name!r} has no such modality; it has {', '.join(declared) or 'none'}"
                )
            if decoders.make_decoder(config, encoders[name]) and decoders.is_raw(encoders[name], entry):
                continue
            if name == "table" and config.data.table.columns:
                if entry is not None and not isinstance(entry, Mapping):
                    raise UserError(f"data.table.columns: {source.name!r} has arrays for a table, and no columns")
                continue
            shape = tuple(declared[name]) if name in declared else np.asarray(entry).shape
            if shapes.setdefault(name, shape) != shape:
                raise UserError(f"{prefix}{name}: the sources of data.train give it different shapes")
    validate_fusion.check_arrays(prefix, encoders, shapes)
    return tuple(sorted(shapes.items()))


def _first_entries(source: source_protocols.Source, names: Collection[str]) -> dict[str, Any]:
    """What the first of the first examples that has a modality has of it, by modality; without those that none has."""
    entries: dict[str, Any] = {}
    for record in first_records(source):
        modalities = {} if record is None else record.get("modalities") or {}
        entries = {name: entry for name, entry in modalities.items() if entry is not None} | entries
        if entries.keys() >= set(names):
            break
    return entries


def shapes_of_data(config: RunConfig) -> tuple[str, ...]:
    """Modalities whose arrays are taken as the data have them, in shapes that no field of the config says."""
    encoders = config_queries.encoders(config.model).items()
    is_known = lambda encoder: isinstance(encoder, TableEncoderConfig) or decoders.make_decoder(config, encoder)
    return tuple(name for name, encoder in encoders if not is_known(encoder))


def input_specs(
    config: RunConfig,
    image_spec: transforms.ImageSpec | None,
    metadata: DatasetMetadata,
    tokenizer: tokenizer_lib.Tokenizer | None = None,
) -> inputs.InputSpecs:
    """How all that the model is given of a record beside its text is prepared.

    Args:
      config: the run's config.
      image_spec: how images are prepared; None for a model that sees none.
      metadata: of the data, which have the shapes of arrays that are taken as they are.
      tokenizer: of texts that are one modality among several; without it their shape alone is known.

    Raises:
      UserError: the shape of a modality's arrays is not known.
    """
    shapes, specs, texts = dict(metadata.shapes), [], config_queries.encoder_of_texts(config)
    for name, encoder in config_queries.encoders(config.model).items():
        decoder = decoders.make_decoder(config, encoder)
        if name == "table" and metadata.columns is not None:
            specs.append(inputs.ModalitySpec.decoded(name, metadata.columns))
        elif name == "text" and texts is not None:
            specs.append(inputs.ModalitySpec.decoded(name, text_ids.TextIds(tokenizer, texts.context_length)))
        elif name in shapes:
            nan_allowed = not isinstance(encoder, ImageEncoderConfig)
            specs.append(inputs.ModalitySpec(name, tuple(shapes[name]), nan_allowed=nan_allowed))
        elif decoder is not None:
            specs.append(inputs.ModalitySpec.decoded(name, decoder))
        elif isinstance(encoder, TableEncoderConfig):
            columns = encoder.numeric + len(encoder.categories)
            specs.append(inputs.ModalitySpec(name, (columns,), nan_allowed=True))
        else:
            raise UserError(
                f"model.kind={config.model.kind!r}: the shape of the arrays of {name!r} is that of the data, which have"
                " not been looked at; name them in data.train"
            )
    return inputs.InputSpecs(image_spec, tuple(specs), may_lack=isinstance(config.model, FusedConfig))


def make_example_transform(
    config: RunConfig,
    specs: inputs.InputSpecs,
    tokenizer: tokenizer_lib.Tokenizer | None,
    metadata: DatasetMetadata,
) -> example_transforms.ExampleTransform:
    """What makes of a record what the task is trained on."""
    if isinstance(config.model, FusedConfig):
        return modality_transform.ModalityTransform(specs)
    if isinstance(config.model, SeparatorConfig):
        return SeparationTransform(specs, separation_data.mixture_spec(config))
    if not has_text(config):
        return example_transforms.InputTransform(synchronization.training_specs(config, specs))
    kind = config.data.texts
    if kind == "questions":
        return question_transforms.QuestionTransform(specs, tokenizer, metadata.answers)
    if kind == "answers":
        return question_transforms.AnswerTransform(specs, tokenizer, config.data.question_template)
    if config.data.caption_prompt:
        return prompt_transforms.PromptTransform(specs, tokenizer, config.data.caption_prompt)
    return example_transforms.PairTransform(specs, tokenizer)


def make_train_examples(
    config: RunConfig, mixture: Mixture, example_transform: example_transforms.ExampleTransform
) -> train_examples.TrainExamples:
    """The training examples of a mixture, by position.

    Raises:
      UserError: anything wrong with the data.
    """
    return train_examples.TrainExamples(
        mixture, seed=config.seed, transform=example_transform, order=config.data.order, window=config.data.window
    )


def batch_shapes(
    config: RunConfig, mesh: Mesh, *, frame: int | None = None, metadata: DatasetMetadata | None = None
) -> dict[str, Any]:
    """Shapes of a global batch as the pipeline makes it, with shardings; images that the device resizes are in frames.

    Args:
      config: the run's config.
      mesh: the device mesh.
      frame: the side of frames, 0 where the host resizes; None for what is planned where no data has been looked at.
      metadata: of the data, which alone tell the shapes of several modalities.

    Raises:
      UserError: a model of several modalities without metadata.
    """
    frame = image_fields.planned_frame(config, mesh.devices.flat[0].platform) if frame is None else frame
    image_spec = image_fields.make_image_spec(config)
    if frame and image_spec is not None:
        image_spec = dataclasses.replace(image_spec, frame=frame)
    specs = synchronization.training_specs(config, input_specs(config, image_spec, metadata or DatasetMetadata()))
    shapes: dict[str, tuple[tuple[int, ...], Any]] = _text_shapes(config) if has_text(config) else {}
    if isinstance(config.model, FusedConfig):
        shapes = {"present": ((len(specs.names),), jnp.bool_), "label": ((), jnp.int32)}
    if isinstance(config.model, SeparatorConfig):
        magnitudes = (separation_data.mixture_spec(config).magnitudes_shape, jnp.float32)
        shapes = {"mixture": magnitudes, "target": magnitudes}
    shapes |= {**specs.batch_shapes(), "id": ((2,), jnp.uint32)}
    sharding = mesh_lib.batch_sharding(mesh)
    shape_of = lambda shape, dtype: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=sharding)
    return {name: shape_of(*spec) for name, spec in shapes.items()}


def _text_shapes(config: RunConfig) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shapes and types of what an example of images and texts has beside its image."""
    length = text_length(config)
    shapes = {"text": ((length,), jnp.int32), "text_mask": ((length,), jnp.bool_)}
    if config.data.texts == "questions":
        answers = config.model.answers if isinstance(config.model, FusionHeadsConfig) else 0
        shapes["answer"] = ((answers,), jnp.float32)
    elif config.data.texts == "answers" or config.data.caption_prompt:
        shapes["target_mask"] = ((length,), jnp.bool_)
    return shapes
