"""A family of models of Hugging Face's: a class there, and what mmjax has for it."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.config.typed_groups import parse_group, to_dict
from mmjax.errors import UserError, validate_choice
from mmjax.interop import config_format, huggingface, preprocessing
from mmjax.interop.config_format import ConfigFormat, Settings
from mmjax.interop.param_names.rows import Row
from mmjax.interop.purpose import Purpose
from mmjax.interop.tensor_files import Tensors, read_json
from mmjax.models.config import ModelConfig

Params = Mapping[str, Any]  # arrays by path

GENERATION = "generation_config.json"
_LONGEST_NAME = 1000  # characters of a class or an answer
_LENGTH = 20  # tokens that the library writes where no file says how many, the first one included
_WRITTEN = 64  # tokens that are written at most where no file says how many, and images and questions count there
# Fields of ways of writing that mmjax does not have, with the values by which they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = dict(
    **dict.fromkeys(("num_beam_groups", "no_repeat_ngram_size", "repetition_penalty"), (0, 1)),
    **dict.fromkeys(("encoder_no_repeat_ngram_size", "diversity_penalty", "penalty_alpha"), (0,)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_bos_token_id"), ([],)),
    **dict(encoder_repetition_penalty=(1,), exponential_decay_length_penalty=(), sequence_bias=({}, [])),
)
_NEUTRAL_SAMPLING: dict[str, tuple[Any, ...]] = dict(typical_p=(1,), min_p=(0,), epsilon_cutoff=(0,), eta_cutoff=(0,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(ConfigFormat):
    """A class of models there: its config.json and names of parameters, and our model of the same function.

    What is not listed is as in `ConfigFormat`; `settings` are of the whole model, as `config.model` has them.

    Attributes:
      model_type: as config.json has it.
      architecture: the class, as `architectures` has it.
      table: settings -> rows.
      aliases: names of the class in files of other versions.
      unread: a pattern of names of arrays that no part here reads: buffers, poolers.
      copies: name of an array that repeats another -> path of our parameter whose numbers it must have, where no row of
        `table` reads it: matrices of heads that are the table of tokens.
      renamed: name of an array -> what `table` calls it, where files of other versions have other names.
      unused: settings -> shapes by name of arrays that the class has and its function never reads; written as zeros.
      processor: the class of its image processor, a key of `preprocessing.PROCESSORS`.
      tokenizer_options: settings -> those of `data.tokenizer` for its tokenizer.json, see `data.text.make_tokenizer`.
      purpose: (content of config.json, its folder) -> what the model was trained for.
      part_of: (settings, parameters) -> those of the part of a larger model that is of this family; raises ValueError
        where it has none. None where no larger model is known.
      larger: kinds of such larger models.
      generation: settings -> fields of generation_config.json; None for a model that writes nothing.
      processors: settings -> further fields, by file, by which the library's processor puts images into texts.
    """

    model_type: str
    architecture: str
    table: Callable[[Settings], list[Row]]
    aliases: tuple[str, ...] = ()
    unread: str = r"(?!)"
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renamed: Callable[[str], str] = lambda name: name
    unused: Callable[[Settings], Mapping[str, tuple[int, ...]]] = lambda settings: {}
    processor: str
    tokenizer_options: Callable[[Settings], tuple[str, ...]] = lambda settings: ()
    purpose: Callable[[Mapping[str, Any], Path], Purpose]
    part_of: Callable[[Settings, Params], tuple[Settings, Params]] | None = None
    larger: tuple[str, ...] = ()
    generation: Callable[[Settings], dict[str, Any]] | None = None
    processors: Callable[[Settings], Mapping[str, Mapping[str, Any]]] = lambda settings: {}

    @property
    def key(self) -> str:
        """Its name among the formats."""
        return f"hf-{self.architecture}"

    def is_unread(self, name: str) -> bool:
        """Whether an array of this name, where no part wants it, is left out."""
        return re.match(self.unread, name) is not None

    def prepare_images(self, folder: Path, size: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        """How images are prepared, as a folder's files say, and lines on what is not as there.

        Raises:
          UserError: a file wants something that mmjax does not do.
        """
        note = f"images are squashed to {size} x {size} pixels, where {self.processor} keeps their shapes"
        keeps_shapes = preprocessing.PROCESSORS[self.processor].keeps_shapes
        return preprocessing.of_hf_folder(folder, self.processor, size), (note,) * keeps_shapes


def complete(settings: Mapping[str, Any]) -> Settings:
    """A model's settings with the defaults of what is left out.

    Raises:
      UserError: a field is unknown, missing or of another type.
    """
    return to_dict(parse_group(ModelConfig, settings, "model"))


def read_settings(form: Family, config: Mapping[str, Any], path: Path) -> Settings:
    """A model's settings from the content of config.json, checked.

    Raises:
      UserError: a field has a value that no model has, or one that mmjax does not have.
    """
    settings = complete(config_format.read_settings(form, config, path))
    parts = {name: part for name, part in settings.items() if isinstance(part, Mapping)}
    for name, part in {**parts, **parts.get("encoders", {})}.items():
        if part.get("width", 0) % part.get("heads", 1):
            raise UserError(
                f"{path}: the {name} part's {part['heads']} attention heads do not divide its width of {part['width']}"
            )
        size, patch = part.get("image_size"), part.get("patch_size")
        if size and patch and size % patch:
            raise UserError(f"{path}: images of {size} pixels do not divide into patches of {patch}")
        patches = (size // patch) ** 2 if size and patch else 0
        for rows in (patches, part.get("vocab_size", 0), part.get("context_length", 0)):
            if rows * part.get("width", 0) > config_format.LARGEST_TABLE:
                raise UserError(f"{path}: a table of {rows} x {part['width']} numbers, which no model has")
    return settings


def read_labels(labels: Any, what: str = "class", *, least: int = 1, numbered: bool = True) -> tuple[str, ...]:
    """What a config's `id2label` names, by number.

    Args:
      labels: its value; None for the library's two.
      what: one of them, in messages.
      least: how many there must be.
      numbered: whether equal names, as ImageNet's two cranes, get their numbers; else they are refused.

    Raises:
      ValueError: it does not name them.
    """
    labels = {"0": "LABEL_0", "1": "LABEL_1"} if labels is None else labels
    if not isinstance(labels, Mapping) or len(labels) < least:
        raise ValueError(f"id2label={str(labels)[:60]}: wants {least} or more names by number, a {what} each")
    result: dict[str, None] = {}
    for number in range(len(labels)):
        name = labels.get(str(number))
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise ValueError(f"id2label: its {what} {number} is {str(name)[:60]!r}, which is no name")
        result[f"{name} ({number})" if numbered and name in result else name] = None
    if len(result) != len(labels):
        raise ValueError(f"id2label names one {what} twice")
    return tuple(result)


def without_copies(form: Family, tensors: Tensors, rows: Sequence[Row]) -> Tensors:
    """The arrays of a file without those that repeat others; where only the copy is in the file, it is the other.

    Args:
      form: the family.
      tensors: the file, with its names as `rows` have them.
      rows: of the model.

    Raises:
      UserError: one differs from what it must repeat.
    """
    read = {name for row in rows for name in row.names()}
    originals = {row.ours[0]: row.theirs[0] for row in rows if len(row.ours) == len(row.theirs) == 1}
    copies = {name: originals[path] for name, path in form.copies.items() if name in tensors and name not in read}
    for name, other in copies.items():
        if other in tensors and not tensors.are_equal(name, other):
            raise UserError(
                f"{tensors.path}: {name} differs from {other}, and mmjax has one array for both, as {form.architecture}"
                " has it with tie_word_embeddings=True; leave the one out that is not meant"
            )
    alone = {name: other for name, other in copies.items() if other not in tensors}
    return tensors.renamed(lambda name: alone.get(name) if name in copies else name)


def activation(field: str, value: str) -> str:
    """Our name of an activation.

    Raises:
      UserError: mmjax does not have it.
    """
    return huggingface.ACTIVATIONS[validate_choice(field, value, huggingface.ACTIVATIONS)]


def read_decoding(config: Mapping[str, Any], folder: Path, prompt: int | None = 1) -> dict[str, Any]:
    """How a model writes, as fields of `config.decoding`: of generation_config.json, else of config.json.

    Args:
      config: the fields of the part that writes.
      folder: of the files.
      prompt: tokens that `max_length` and `min_length` count and that are not written; None where these are an image
        and a question, so that the two fields say nothing of what is written.

    Raises:
      UserError: a value that makes no sense, or a way of writing that mmjax does not have.
    """
    file = folder / GENERATION
    fields, path = (read_json(file), file) if file.is_file() else (dict(config), folder / "config.json")

    def number(name: str, default: Any, least: float) -> Any:
        value = fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, type(default) | int) or not least <= value <= 10**6:
            raise UserError(f"{path}: {name}={str(value)[:60]}: wants a number of {least} or more, such as {default}")
        return type(default)(value)

    for name, neutral in (_NEUTRAL | (_NEUTRAL_SAMPLING if fields.get("do_sample") else {})).items():
        if fields.get(name) not in (None, *neutral):
            raise UserError(f"{path}: {name}={str(fields[name])[:60]} is not read; mmjax writes without it")
    ids = fields.get("eos_token_id")
    if isinstance(ids, list) and any(other != ids[0] for other in ids):
        raise UserError(f"{path}: eos_token_id={str(ids)[:60]}: mmjax ends a text at one id; leave that one")
    longest, shortest = number("max_length", _LENGTH, 1), number("min_length", 0, 0)
    longest, shortest = (_WRITTEN, 0) if prompt is None else (longest - prompt, shortest - prompt)
    room = number("max_new_tokens", 0, 1) if fields.get("max_new_tokens") else longest
    room, least = max(1, room), max(number("min_new_tokens", 0, 0), shortest)
    result: dict[str, Any] = {"max_tokens": room, "min_tokens": max(0, min(room, least))}
    beams = number("num_beams", 1, 1)
    if fields.get("do_sample"):
        result |= dict(method="sample", temperature=number("temperature", 1.0, 0))
        result |= dict(top_k=number("top_k", 50, 0), top_p=number("top_p", 1.0, 0))
    elif beams > 1:
        result |= dict(method="beam", beams=beams, length_penalty=number("length_penalty", 1.0, -100))
    return result


def written_files(
    form: Family, settings: Settings, prepared: Mapping[str, Any], answers: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The content of the files of JSON beside a model's weights, by name.

    Args:
      form: the family.
      settings: of the model.
      prepared: `size`, `resize`, `interpolation`, `mean` and `std` of its images.
      answers: that it chooses among; none where it does not.

    Raises:
      UserError: the library has no such model.
    """
    try:
        fields = form.to_config(settings)
    except ValueError as error:
        raise UserError(f"{form.name}: {error}") from error
    fields = _merged(form.fixed, fields)
    fields |= dict(model_type=form.model_type, architectures=[form.architecture], dtype="float32")
    if answers:
        fields |= dict(id2label=dict(enumerate(answers)), label2id={answer: i for i, answer in enumerate(answers)})
    files = {
        "config.json": fields,
        preprocessing.HF_FILES[1]: preprocessing.to_hf(prepared, _written(form.processor), ""),
    }
    files |= {name: {**files.get(name, {}), **more} for name, more in form.processors(settings).items()}
    return files if form.generation is None else files | {GENERATION: form.generation(settings)}


def _written(processor: str) -> str:
    """The class of image processors that makes squares."""
    return "ViTImageProcessor" if preprocessing.PROCESSORS[processor].keeps_shapes else processor


def _merged(fixed: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with those that are always the same."""
    groups = {name: _merged(value, fields.get(name, {})) for name, value in fixed.items() if isinstance(value, Mapping)}
    return {**fixed, **fields, **groups}
