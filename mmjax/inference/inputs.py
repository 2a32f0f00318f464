"""Inputs of a loaded model, converted to arrays: images, texts, prompts, modalities."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from mmjax.data.bad_example import BadExample
from mmjax.data.image import transforms
from mmjax.data.loading.example_transforms import ModalityTransform
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError, validate_choice
from mmjax.models import generation
from mmjax.models.config import TextConfig
from mmjax.utils import end_of_text

# Fields of `Decoding` that belong to one method.
_OF_METHOD = {"beams": "beam", "length_penalty": "beam", "temperature": "sample", "top_k": "sample", "top_p": "sample"}


def are_pixels(images: Any, size: int) -> bool:
    """Whether images are a float array, which is taken as preprocessed.

    Raises:
      UserError: they are, to another size.
    """
    if not _is_array(images) or not jnp.issubdtype(images.dtype, jnp.floating):
        return False
    if images.ndim != 4 or tuple(images.shape[1:]) != (size, size, 3):
        raise UserError(
            f"images of shape {list(images.shape)}: floats are taken as preprocessed, [B, {size}, {size}, 3];"
            " load the model with image_size= for another size"
        )
    return True


def to_uint8(images: Any, spec: transforms.ImageSpec) -> np.ndarray:
    """PIL images or uint8 arrays, one or several, as uint8 [B, H, W, 3] of the model's size.

    Raises:
      UserError: of another kind.
    """
    _refuse_path(images)
    if isinstance(images, Image.Image) or (_is_array(images) and images.ndim == 3):
        images = [images]
    prepared = [_prepare(image, spec) for image in images]
    return np.stack(prepared) if prepared else np.zeros((0, spec.size, spec.size, 3), np.uint8)


def _is_array(images: Any) -> bool:
    return hasattr(images, "dtype") and hasattr(images, "shape")


def _refuse_path(image: Any) -> None:
    if isinstance(image, str | bytes | os.PathLike):
        raise UserError(f"images: {str(image)[:80]!r} is no image; open a file with PIL.Image.open first")


def _prepare(image: Any, spec: transforms.ImageSpec) -> np.ndarray:
    if isinstance(image, Image.Image):
        if image.mode == "F" or image.mode.startswith("I"):
            raise UserError(f"images: a PIL image of mode {image.mode!r} has no defined range; convert it to RGB first")
        if transforms.RULES[spec.image_rule].upright:
            image = ImageOps.exif_transpose(image)
        try:
            return transforms.eval_transform(transforms.convert_mode(image, spec), spec)
        except ValueError as error:  # such as La, which Pillow turns into LA alone
            raise UserError(f"images: a PIL image of mode {image.mode!r} ({error}); give it as RGB or RGBA") from error
    _refuse_path(image)
    try:
        return transforms.eval_image(np.asarray(image), spec)
    except BadExample as error:
        raise UserError(f"images: {error}; give PIL images, uint8 arrays [H, W, 3] or floats") from error


def to_token_ids(texts: Any, text: TextConfig) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [B, L] and which are real: those up to the end of text, or all where there is none.

    Raises:
      UserError: no array of ids that the model has.
    """
    ids = np.asarray(texts)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.shape[1] > text.context_length:
        raise UserError(
            f"texts of type {ids.dtype} and shape {list(ids.shape)}: give strings, or ids [B, L] with L at most"
            f" {text.context_length}"
        )
    if ids.size and not 0 <= ids.min() <= ids.max() < text.vocab_size:
        raise UserError(f"texts: ids from {ids.min()} to {ids.max()}; the model has 0 to {text.vocab_size - 1}")
    if text.eos_id is None:
        return ids.astype(np.int32), np.ones(ids.shape, bool)
    end = end_of_text.position(ids, text.eos_id)
    if text.eos_id != end_of_text.LARGEST_ID:
        end = np.where((ids == text.eos_id).any(axis=1), end, ids.shape[1])
    return ids.astype(np.int32), np.arange(ids.shape[1]) <= end[:, None]


def broadcast_texts(field: str, texts: Any, count: int) -> list[str]:
    """`count` texts, one an image; a single one is for all of them.

    Raises:
      UserError: another number of texts, or no strings.
    """
    texts = [texts] * count if isinstance(texts, str) else list(texts)
    if len(texts) != count or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{field}: {len(texts)} for {count} images; give a string for each, or one for all of them")
    return texts


def to_prompts(texts: Sequence[str], tokenizer: tokenizer_lib.Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Prompts: the first token of every text and the words that it begins with, as ids [B, P] and a mask of real ones.

    Raises:
      UserError: a text that leaves no room for another token.
    """
    rows = [[tokenizer.bos_id, *tokenizer.words(text)] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) >= tokenizer.context_length - 1:  # longer ones are cut to this
            raise UserError(
                f"prompt={text[:40]!r}: it has {len(row)} tokens or more, and data.context_length="
                f"{tokenizer.context_length} leaves no room after them; shorten it"
            )
    longest = max(map(len, rows), default=1)
    ids = np.array([row + [tokenizer.pad_id] * (longest - len(row)) for row in rows], np.int32).reshape(-1, longest)
    return ids, np.arange(longest) < np.array([len(row) for row in rows])[:, None]


def to_decoding(
    default: generation.Decoding, prompt_length: int, context_length: int, overrides: Mapping[str, Any]
) -> generation.Decoding:
    """The run's decoding with some fields overridden, in the room that prompts leave.

    Args:
      default: as the run's config has it.
      prompt_length: of the longest prompt, in tokens.
      context_length: tokens that the model reads at most. It does not read the last one it writes.
      overrides: fields of `Decoding`.

    Raises:
      UserError: no such field, one of another method, or a value that makes no sense.
    """
    known = [field.name for field in dataclasses.fields(default) if not field.name.endswith("_id")]
    for field, value in overrides.items():
        expected = type(getattr(default, validate_choice("caption: the argument", field, known)))
        if type(value) not in ((int, float) if expected is float else (expected,)):
            raise UserError(
                f"caption: {field}={value!r} is no {expected.__name__}, such as {getattr(default, field)!r}"
            )
    method = overrides.get("method", default.method)
    for field in overrides:
        if _OF_METHOD.get(field, method) != method:
            reason = f"{field}={overrides[field]!r} is of method={_OF_METHOD[field]!r}, and the method is {method!r}"
            raise UserError(f"caption: {reason}; give both")
    room = context_length + 1 - prompt_length
    if overrides.get("max_tokens", 0) > room:
        raise UserError(f"caption: max_tokens={overrides['max_tokens']}, but the model's context has room for {room}")
    return dataclasses.replace(default, **{"max_tokens": min(default.max_tokens, room), **overrides})


def to_modalities(
    modalities: Mapping[str, Any], present: Any, example_transform: ModalityTransform
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of several modalities, of which some may be missing, as a batch has them.

    Args:
      modalities: by name, [B, ...]; the record's own image as PIL images or uint8 arrays.
      present: [B, M] in sorted order of all names; None: those in `modalities`.
      example_transform: of the task.

    Returns:
      The batch's arrays by key, and `present`.

    Raises:
      UserError: another name, shape or number, or an example without any modality.
    """
    names, spec = example_transform.names, example_transform.image_spec
    if not isinstance(modalities, Mapping) or not modalities:
        raise UserError(f"modalities: give a dict of arrays [B, ...] by name; the model has {', '.join(names)}")
    for name in modalities:
        validate_choice("modalities: the name", name, names)
    values = {
        name: to_uint8(value, spec) if spec is not None and name == "image" else np.asarray(value)
        for name, value in modalities.items()
    }
    count = _common_length(values)
    present = _to_presence(present, names, values, count)
    images = values.pop("image", None) if spec is not None else None
    rows = []
    for index in range(count):
        record = {name: value[index] for name, value in values.items() if present[index, names.index(name)]}
        try:
            arrays, _ = example_transform.arrays({"modalities": record, "id": index})
        except BadExample as error:
            raise UserError(f"modalities: {error.detail} (example {index})") from error
        if spec is not None:
            blank = np.zeros((spec.size, spec.size, 3), np.uint8)
            arrays["image"] = blank if images is None else images[index]
        rows.append(arrays)
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}, present


def _common_length(values: Mapping[str, np.ndarray]) -> int:
    """The number of examples, of which every modality must have as many."""
    counts = {name: len(value) if value.ndim else 1 for name, value in values.items()}
    count = next(iter(counts.values()))
    if set(counts.values()) != {count}:
        raise UserError(
            f"modalities: {', '.join(f'{n} of {name}' for name, n in counts.items())}; give as many of each"
        )
    return count


def _to_presence(present: Any, names: Sequence[str], values: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Which modality each example has, bool [B, M]; checked against the modalities that there are values of."""
    has_values = np.array([[name in values for name in names]] * count, bool).reshape(count, len(names))
    present = has_values if present is None else np.asarray(present)
    if present.shape != has_values.shape or present.dtype != bool:
        raise UserError(
            f"present of type {present.dtype} and shape {list(present.shape)}: give bool [{count}, {len(names)}], a"
            f" column for each of {', '.join(names)}"
        )
    is_missing = (present & ~has_values).any(axis=0)
    if is_missing.any():
        missing = ", ".join(name for name, flag in zip(names, is_missing, strict=True) if flag)
        raise UserError(f"present: {missing} is said to be there, and not among the modalities")
    if not present.any(axis=1).all():
        raise UserError(f"present: example {int(np.argmin(present.any(axis=1)))} has no modality at all; leave it out")
    return present
